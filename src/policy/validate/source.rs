//! One source of a policy.

use super::{Findings, reference};
use crate::policy::{
    diagnostic::Rule,
    document::source::{Command, Database, Source, Volumes},
    is_name,
};

/// Checks one source.
pub fn check(findings: &mut Findings<'_>, pointer: &str, source: &Source) {
    let Source {
        name,
        paths,
        volumes,
        method,
        exclude,
        one_file_system,
        postgres,
        mysql,
        mariadb,
        galera,
        resources,
        command,
    } = source;
    if !is_name(name) {
        let message = format!("`{}` is not a name", super::structure::shorten(name));
        findings.error(Rule::Name, &format!("{pointer}/name"), message).hint =
            Some("use lower-case letters, digits and inner `-`, at most 52 characters".to_owned());
    }
    let kinds = [
        ("paths", paths.is_some()),
        ("volumes", volumes.is_some()),
        ("postgres", postgres.is_some()),
        ("mysql", mysql.is_some()),
        ("mariadb", mariadb.is_some()),
        ("galera", galera.is_some()),
        ("resources", resources.is_some()),
        ("command", command.is_some()),
    ];
    reference::exactly_one(findings, pointer, &format!("source `{}`", super::structure::shorten(name)), &kinds);

    if let Some(paths) = paths {
        reference::needs_local(findings, &format!("{pointer}/paths"), "paths", "name `volumes`");
        check_paths(findings, &format!("{pointer}/paths"), paths);
    }
    if let Some(volumes) = volumes {
        let at = format!("{pointer}/volumes");
        reference::needs_kubernetes(findings, &at, "volumes", "on one host name directories: `paths: [/srv/shop]`");
        let Volumes { claims, selector, workload, workloads, snapshot_class: _ } = volumes.as_ref();
        if claims.is_empty() && selector.is_none() && workload.is_none() && workloads.is_empty() {
            let message = "`volumes` needs at least one of `claims`, `selector`, `workload` and `workloads`";
            findings.error_at_key(Rule::Empty, &at, message);
        }
    }
    if method.is_some() && volumes.is_none() {
        misplaced(findings, &format!("{pointer}/method"), "method", "volumes");
    }
    if !exclude.is_empty() && paths.is_none() && volumes.is_none() {
        misplaced(findings, &format!("{pointer}/exclude"), "exclude", "paths");
    }
    if *one_file_system && paths.is_none() {
        misplaced(findings, &format!("{pointer}/oneFileSystem"), "oneFileSystem", "paths");
    }
    for (index, glob) in exclude.iter().enumerate() {
        reference::glob(findings, &format!("{pointer}/exclude/{index}"), glob);
    }
    for (kind, database) in [("postgres", postgres), ("mysql", mysql), ("mariadb", mariadb)] {
        if let Some(database) = database {
            check_database(findings, &format!("{pointer}/{kind}"), database);
        }
    }
    if galera.is_some() {
        let hint = "dump one node with `mariadb` meanwhile";
        reference::not_available(findings, &format!("{pointer}/galera"), "galera", hint);
    }
    if resources.is_some() {
        let hint = "there are no manifests on one host; leave the source out";
        reference::needs_kubernetes(findings, &format!("{pointer}/resources"), "resources", hint);
    }
    if let Some(command) = command {
        check_command(findings, &format!("{pointer}/command"), command);
    }
}

fn check_paths(findings: &mut Findings<'_>, pointer: &str, paths: &[String]) {
    if paths.is_empty() {
        findings.error_at_key(Rule::Empty, pointer, "the list of paths is empty").hint =
            Some("name at least one file or directory".to_owned());
    }
    for (index, path) in paths.iter().enumerate() {
        let at = format!("{pointer}/{index}");
        reference::absolute(findings, &at, path);
        if let Some(first) = paths[..index].iter().position(|other| other == path) {
            let related = findings.place(&format!("{pointer}/{first}")).related("it stands here first");
            findings.error(Rule::DuplicateName, &at, format!("`{path}` is in the list twice")).related = Some(related);
        }
    }
}

fn check_database(findings: &mut Findings<'_>, pointer: &str, database: &Database) {
    let Database { host, port, databases, user, user_from, password, image, arguments, program_directory } = database;
    for (field, text) in [("host", host), ("user", user)] {
        if text.as_deref().is_some_and(|text| text.is_empty() || text.starts_with('-')) {
            let message = format!("`{field}` cannot be empty or begin with `-`");
            findings.error(Rule::WrongValue, &format!("{pointer}/{field}"), message);
        }
    }
    if *port == Some(0) {
        findings.error(Rule::WrongValue, &format!("{pointer}/port"), "a port is a number from 1 to 65535");
    }
    let names = format!("{pointer}/databases");
    if databases.is_empty() {
        findings.error_at_key(Rule::Empty, &names, "the list of databases is empty").hint =
            Some("name each database: one that is not named is not protected".to_owned());
    }
    for (index, name) in databases.iter().enumerate() {
        let at = format!("{names}/{index}");
        // The name becomes an argument of the dump program and the name of a file of the restore point.
        if name.is_empty() || name.starts_with(['-', '.']) || name.contains(['/', '\0', '\n']) {
            let message = format!("`{}` cannot be the name of a database", super::structure::shorten(name));
            findings.error(Rule::WrongValue, &at, message).hint =
                Some("a name is not empty, begins with neither `-` nor `.`, and has no `/`".to_owned());
        }
        if let Some(first) = databases[..index].iter().position(|other| other == name) {
            let related = findings.place(&format!("{names}/{first}")).related("it stands here first");
            findings.error(Rule::DuplicateName, &at, format!("database `{name}` is in the list twice")).related =
                Some(related);
        }
    }
    if let Some(reference) = user_from {
        let at = format!("{pointer}/userFrom");
        reference::secret(findings, &at, reference);
        if user.is_some() {
            findings.error_at_key(Rule::ExactlyOne, &at, "`user` and `userFrom` both name the user").hint =
                Some("leave one of them out".to_owned());
        }
    }
    if let Some(password) = password {
        reference::secret(findings, &format!("{pointer}/password"), password);
    }
    if image.is_some() {
        let hint = "install the client programs, or name their `programDirectory`";
        reference::needs_kubernetes(findings, &format!("{pointer}/image"), "image", hint);
    }
    for (index, argument) in arguments.iter().enumerate() {
        if argument.starts_with("--password=") || argument.starts_with("--dbname=postgres") && argument.contains('@') {
            let message = "this argument holds a literal password; a secret must not stand in git";
            let finding = findings.error(Rule::SecretLiteral, &format!("{pointer}/arguments/{index}"), message);
            finding.secret = true;
            finding.hint =
                Some("use the field `password`, and change the password: git keeps what was pushed".to_owned());
        }
    }
    if let Some(directory) = program_directory {
        reference::absolute(findings, &format!("{pointer}/programDirectory"), directory);
    }
}

fn check_command(findings: &mut Findings<'_>, pointer: &str, command: &Command) {
    let Command { dump, image, restore, file_name, trailer, environment } = command;
    reference::arguments(findings, &format!("{pointer}/dump"), dump);
    if image.is_some() {
        let hint = "on one host the program is simply started; leave it out";
        reference::needs_kubernetes(findings, &format!("{pointer}/image"), "image", hint);
    }
    if let Some(restore) = restore {
        reference::arguments(findings, &format!("{pointer}/restore"), restore);
    }
    if let Some(name) = file_name
        && (name.is_empty() || name.starts_with('.') || name.contains(['/', '\0', '\n']))
    {
        let message = format!("`{}` cannot be the name of a file", super::structure::shorten(name));
        findings.error(Rule::WrongValue, &format!("{pointer}/fileName"), message).hint =
            Some("a plain name, without a directory, such as `dump.sql`".to_owned());
    }
    if trailer.as_deref().is_some_and(|text| text.trim().is_empty()) {
        let message = "an empty trailer checks nothing";
        findings.error(Rule::Empty, &format!("{pointer}/trailer"), message).hint = Some("leave it out".to_owned());
    }
    for (name, reference) in environment {
        let at = format!("{pointer}/environment/{}", crate::policy::parse::node::escape(name));
        if name.is_empty() || name.contains(['=', '\0']) {
            findings.error_at_key(Rule::WrongValue, &at, "this cannot be the name of an environment variable");
        }
        reference::secret(findings, &at, reference);
    }
}

fn misplaced(findings: &mut Findings<'_>, pointer: &str, field: &str, other: &str) {
    let message = format!("`{field}` has no effect without `{other}`");
    findings.error_at_key(Rule::Misplaced, pointer, message).hint = Some("leave it out".to_owned());
}
