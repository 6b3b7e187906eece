//! How databases are dumped and restored: which program, with which arguments, and how to see that its stream is whole.
//!
//! Pure, but for one look at the caller's answer whether a program exists. Passwords travel in the environment only.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::job::{Program, Stream, StreamCheck};
use crate::{
    policy::document::source::{Command, Database},
    secret::Secret,
};

/// The kinds of database servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// PostgreSQL.
    Postgres,
    /// MySQL.
    MySql,
    /// MariaDB.
    MariaDb,
}

/// The line that `mysqldump` and `mariadb-dump` write last.
const SQL_TRAILER: &str = "-- Dump completed";
/// The first bytes of PostgreSQL's custom format.
const POSTGRES_MAGIC: &[u8] = b"PGDMP";

/// Counts what a person made in a PostgreSQL database: relations outside the server's own schemas.
const POSTGRES_COUNT: &str = "SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
                              ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') \
                              AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'";

/// The streams that capture all databases of a source, one file each.
///
/// `exists` says whether a file exists; it is asked only for programs in the source's `programDirectory`.
pub fn streams(
    server: Server,
    database: &Database,
    password: Option<&Secret>,
    exists: &dyn Fn(&Path) -> bool,
) -> Vec<Stream> {
    let environment = environment(server, password);
    database
        .databases
        .iter()
        .map(|name| {
            let mut arguments = vec![dump_program(server, database, exists)];
            arguments.extend(connection(server, database));
            let check = match server {
                Server::Postgres => {
                    arguments.extend(owned(["--format=custom", "--no-password"]));
                    StreamCheck::StartsWith(POSTGRES_MAGIC.to_vec())
                }
                Server::MySql | Server::MariaDb => {
                    arguments.extend(owned(["--single-transaction", "--routines", "--triggers", "--events"]));
                    StreamCheck::LastLineStartsWith(SQL_TRAILER.to_owned())
                }
            };
            arguments.extend(database.arguments.iter().cloned());
            // After `--`-less options on purpose: a database named `-x` is not an option for either program this way.
            match server {
                Server::Postgres => arguments.push(format!("--dbname={name}")),
                Server::MySql | Server::MariaDb => arguments.extend(["--".to_owned(), name.clone()]),
            }
            let program = Program { arguments, environment: environment.clone() };
            Stream { file_name: file_name(server, name), program, check }
        })
        .collect()
}

/// The name of the file that a database is captured in.
pub fn file_name(server: Server, database: &str) -> String {
    match server {
        Server::Postgres => format!("{database}.dump"),
        Server::MySql | Server::MariaDb => format!("{database}.sql"),
    }
}

/// The program that reads the captured stream of one database and writes it into `into`.
///
/// `arguments` go to the program as they are; `--table=NAME` makes PostgreSQL restore only that table.
pub fn restore_program(
    server: Server,
    database: &Database,
    password: Option<&Secret>,
    into: &str,
    arguments: &[String],
    exists: &dyn Fn(&Path) -> bool,
) -> Program {
    let mut all = vec![restore_name(server, database, exists)];
    all.extend(connection(server, database));
    match server {
        Server::Postgres => {
            all.extend(owned([
                "--no-password",
                "--clean",
                "--if-exists",
                "--no-owner",
                "--exit-on-error",
                "--single-transaction",
            ]));
            all.extend(arguments.iter().cloned());
            all.push(format!("--dbname={into}"));
        }
        Server::MySql | Server::MariaDb => {
            all.extend(arguments.iter().cloned());
            all.push(format!("--database={into}"));
        }
    }
    Program { arguments: all, environment: environment(server, password) }
}

/// The program that prints how many tables, views and sequences a database has, but for those of the server itself.
pub fn count_program(
    server: Server,
    database: &Database,
    password: Option<&Secret>,
    of: &str,
    exists: &dyn Fn(&Path) -> bool,
) -> Program {
    let name = match server {
        Server::Postgres => program(database, &["psql"], exists),
        Server::MySql | Server::MariaDb => restore_name(server, database, exists),
    };
    let mut arguments = vec![name];
    arguments.extend(connection(server, database));
    match server {
        Server::Postgres => {
            arguments.extend(owned(["--no-psqlrc", "--no-align", "--tuples-only", "--no-password"]));
            arguments.push(format!("--command={POSTGRES_COUNT}"));
            arguments.push(format!("--dbname={of}"));
        }
        Server::MySql | Server::MariaDb => {
            let literal = of.replace('\\', "\\\\").replace('\'', "''");
            arguments.extend(owned(["--batch", "--skip-column-names"]));
            arguments.push(format!(
                "--execute=SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = '{literal}'"
            ));
        }
    }
    Program { arguments, environment: environment(server, password) }
}

/// The stream of a `command` source. `source` is the name of the source.
pub fn command_stream(source: &str, command: &Command, environment: BTreeMap<String, Secret>) -> Stream {
    Stream {
        file_name: command_file_name(source, command),
        program: Program { arguments: command.dump.clone(), environment },
        check: match &command.trailer {
            Some(trailer) => StreamCheck::EndsWith(trailer.clone()),
            None => StreamCheck::NotEmpty,
        },
    }
}

/// The name of the file that a `command` source is captured in.
pub fn command_file_name(source: &str, command: &Command) -> String {
    command.file_name.clone().unwrap_or_else(|| source.to_owned())
}

/// The program that takes the stream of a `command` source back; none if the document names none.
pub fn command_restore_program(command: &Command, environment: BTreeMap<String, Secret>) -> Option<Program> {
    let arguments = command.restore.clone()?;
    Some(Program { arguments, environment })
}

fn environment(server: Server, password: Option<&Secret>) -> BTreeMap<String, Secret> {
    let name = match server {
        Server::Postgres => "PGPASSWORD",
        Server::MySql | Server::MariaDb => "MYSQL_PWD",
    };
    password.map(|password| (name.to_owned(), password.clone())).into_iter().collect()
}

fn connection(server: Server, database: &Database) -> Vec<String> {
    let Database {
        host,
        port,
        databases: _,
        user,
        user_from: _,
        password: _,
        image: _,
        arguments: _,
        program_directory: _,
    } = database;
    let mut arguments = Vec::new();
    if let Some(host) = host {
        let socket = host.starts_with('/');
        arguments.push(match server {
            Server::MySql | Server::MariaDb if socket => format!("--socket={}", socket_file(host)),
            Server::Postgres | Server::MySql | Server::MariaDb => format!("--host={host}"),
        });
        // With a host name these clients would else prefer the socket when the name is `localhost`.
        if !socket && server != Server::Postgres {
            arguments.push("--protocol=tcp".to_owned());
        }
    }
    if let Some(port) = port {
        arguments.push(format!("--port={port}"));
    }
    if let Some(user) = user {
        arguments.push(match server {
            Server::Postgres => format!("--username={user}"),
            Server::MySql | Server::MariaDb => format!("--user={user}"),
        });
    }
    arguments
}

/// The documents name the directory of a socket, as PostgreSQL does; MySQL's clients want the file.
fn socket_file(host: &str) -> String {
    if host.ends_with(".sock") { host.to_owned() } else { format!("{}/mysqld.sock", host.trim_end_matches('/')) }
}

fn dump_program(server: Server, database: &Database, exists: &dyn Fn(&Path) -> bool) -> String {
    match server {
        Server::Postgres => program(database, &["pg_dump"], exists),
        Server::MySql => program(database, &["mysqldump"], exists),
        Server::MariaDb => program(database, &["mariadb-dump", "mysqldump"], exists),
    }
}

fn restore_name(server: Server, database: &Database, exists: &dyn Fn(&Path) -> bool) -> String {
    match server {
        Server::Postgres => program(database, &["pg_restore"], exists),
        Server::MySql => program(database, &["mysql"], exists),
        Server::MariaDb => program(database, &["mariadb", "mysql"], exists),
    }
}

/// The first of these names that is in the program directory; without one, the first, to be found in PATH.
fn program(database: &Database, names: &[&str], exists: &dyn Fn(&Path) -> bool) -> String {
    let first = names.first().copied().unwrap_or_default();
    let Some(directory) = &database.program_directory else { return first.to_owned() };
    let candidates: Vec<PathBuf> = names.iter().map(|name| Path::new(directory).join(name)).collect();
    let found = candidates.iter().find(|path| exists(path)).cloned();
    found.unwrap_or_else(|| Path::new(directory).join(first)).display().to_string()
}

fn owned<const N: usize>(arguments: [&str; N]) -> [String; N] {
    arguments.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn database(yaml: &str) -> Database {
        serde_yaml::from_str(yaml).unwrap()
    }

    fn check(server: Server, yaml: &str, dump: Expect, restore: Expect) {
        let secret = Secret::new("hunter2");
        let database = database(yaml);
        let exists = |path: &Path| path == Path::new("/opt/old/mysqldump");
        let streams = streams(server, &database, Some(&secret), &exists);
        let text = |program: &Program| {
            let names: Vec<&str> = program.environment.keys().map(String::as_str).collect();
            format!("{} {}", names.join(" "), program.arguments.join(" "))
        };
        let lines: Vec<String> = streams
            .iter()
            .map(|stream| format!("{}: {} {:?}\n", stream.file_name, text(&stream.program), stream.check))
            .collect();
        assert!(!lines.concat().contains("hunter2"));
        dump.assert_eq(&lines.concat());
        let program = restore_program(server, &database, Some(&secret), "copy", &["--table=t".to_owned()], &exists);
        restore.assert_eq(&text(&program));
    }

    #[test]
    fn counting_reads_the_database_that_is_meant() {
        let database = database("{host: db, databases: [shop], user: backup}");
        let count = |server, of| count_program(server, &database, None, of, &|_| false).arguments;
        let postgres = count(Server::Postgres, "-x'");
        assert_eq!((postgres[0].as_str(), postgres.last().map(String::as_str)), ("psql", Some("--dbname=-x'")));
        let mysql = count(Server::MySql, r"a'b\c");
        assert!(mysql.last().unwrap().ends_with(r"table_schema = 'a''b\\c'"), "{mysql:?}");
    }

    #[test]
    fn postgres() {
        check(
            Server::Postgres,
            "{host: db, port: 5433, databases: [shop, -x], user: backup, arguments: [--no-acl]}",
            expect![[r#"
                shop.dump: PGPASSWORD pg_dump --host=db --port=5433 --username=backup --format=custom --no-password --no-acl --dbname=shop StartsWith([80, 71, 68, 77, 80])
                -x.dump: PGPASSWORD pg_dump --host=db --port=5433 --username=backup --format=custom --no-password --no-acl --dbname=-x StartsWith([80, 71, 68, 77, 80])
            "#]],
            expect![
                "PGPASSWORD pg_restore --host=db --port=5433 --username=backup --no-password --clean --if-exists --no-owner --exit-on-error --single-transaction --table=t --dbname=copy"
            ],
        );
    }

    #[test]
    fn mariadb_with_an_old_name() {
        check(
            Server::MariaDb,
            "{host: /run/mysqld, databases: [shop], programDirectory: /opt/old}",
            expect![[r#"
                shop.sql: MYSQL_PWD /opt/old/mysqldump --socket=/run/mysqld/mysqld.sock --single-transaction --routines --triggers --events -- shop LastLineStartsWith("-- Dump completed")
            "#]],
            expect!["MYSQL_PWD /opt/old/mariadb --socket=/run/mysqld/mysqld.sock --table=t --database=copy"],
        );
    }

    #[test]
    fn mysql() {
        check(
            Server::MySql,
            "{host: localhost, databases: [shop], user: root}",
            expect![[r#"
                shop.sql: MYSQL_PWD mysqldump --host=localhost --protocol=tcp --user=root --single-transaction --routines --triggers --events -- shop LastLineStartsWith("-- Dump completed")
            "#]],
            expect!["MYSQL_PWD mysql --host=localhost --protocol=tcp --user=root --table=t --database=copy"],
        );
    }

    #[test]
    fn commands() {
        let command: Command = serde_yaml::from_str("{dump: [sqlite3, a.db, .dump], trailer: COMMIT;}").unwrap();
        let stream = command_stream("lite", &command, BTreeMap::new());
        assert_eq!((stream.file_name.as_str(), stream.check), ("lite", StreamCheck::EndsWith("COMMIT;".to_owned())));
        assert!(command_restore_program(&command, BTreeMap::new()).is_none());
    }
}
