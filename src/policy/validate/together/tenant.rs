//! Tenants: which directory may name which namespaces and repositories.

use std::path::{Component, Path, PathBuf};

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::Everything;
use crate::policy::{
    diagnostic::{Diagnostic, Rule},
    document::settings::Tenant,
    validate::Place,
};

/// A tenant, ready to be asked.
struct Allowed {
    directory: PathBuf,
    namespaces: GlobSet,
    repositories: GlobSet,
}

/// Finds documents that name what their directory is not allowed to.
pub fn check(everything: &Everything<'_>, findings: &mut Vec<Diagnostic>) {
    // With two Settings documents, which is an error, both hold: a second one must not set anybody free.
    for settings in &everything.settings {
        let tenants = &settings.document.spec.tenants;
        if !tenants.is_empty() {
            let mut allowed: Vec<Allowed> = tenants.iter().map(Allowed::new).collect();
            // The deepest directory that holds a file decides.
            allowed.sort_by_key(|tenant| std::cmp::Reverse(tenant.directory.components().count()));
            one(everything, &allowed, &settings.name, findings);
        }
    }
}

impl Allowed {
    fn new(tenant: &Tenant) -> Self {
        let directory = Path::new(&tenant.directory);
        let named = directory.components().filter(|component| *component != Component::CurDir);
        Self {
            directory: named.collect(),
            namespaces: globs(&tenant.namespaces),
            repositories: globs(&tenant.repositories),
        }
    }
}

fn globs(texts: &[String]) -> GlobSet {
    let mut builder = GlobSetBuilder::new();
    for glob in texts.iter().filter_map(|text| Glob::new(text).ok()) {
        builder.add(glob);
    }
    // Each glob was read before; a set that cannot be built for its size allows nothing.
    builder.build().unwrap_or_else(|_| GlobSet::empty())
}

fn one(everything: &Everything<'_>, allowed: &[Allowed], settings: &Place, findings: &mut Vec<Diagnostic>) {
    let mut asker = Asker { allowed, settings, findings };
    for checked in &everything.policies {
        asker.namespace(&checked.namespace, checked.policy.name.namespace());
        for (name, place) in checked.policy.document.spec.repositories.iter().zip(&checked.repositories) {
            asker.repository(place, name);
        }
    }
    for checked in &everything.repositories {
        asker.repository(&checked.name, &checked.document.metadata.name);
    }
    for checked in &everything.restores {
        asker.namespace(&checked.namespace, checked.restore.name.namespace());
        asker.namespace(&checked.policy, checked.restore.policy.namespace());
        let spec = &checked.restore.document.spec;
        if let Some(namespace) = spec.into.as_ref().and_then(|into| into.namespace.as_deref()) {
            asker.namespace(&checked.into, namespace);
        }
        if let (Some(name), Some(place)) = (&spec.repository, &checked.repository) {
            asker.repository(place, name);
        }
    }
    for checked in &everything.settings {
        let tenant = asker.tenant(&checked.name);
        if tenant.is_some_and(|tenant| !tenant.directory.as_os_str().is_empty()) {
            let message = "the directory of a tenant cannot hold Settings";
            asker.refuse(
                &checked.name,
                Rule::TenantDirectory,
                message.to_owned(),
                "move them to the top of the watched path",
            );
        }
    }
}

struct Asker<'a> {
    allowed: &'a [Allowed],
    settings: &'a Place,
    findings: &'a mut Vec<Diagnostic>,
}

impl<'a> Asker<'a> {
    fn tenant(&self, place: &Place) -> Option<&'a Allowed> {
        self.allowed.iter().find(|tenant| place.location.file.starts_with(&tenant.directory))
    }

    fn namespace(&mut self, place: &Place, namespace: &str) {
        match self.tenant(place) {
            None => self.homeless(place),
            Some(tenant) if !tenant.namespaces.is_match(namespace) => {
                let message =
                    format!("directory `{}` may not name the namespace `{namespace}`", tenant.directory.display());
                self.refuse(
                    place,
                    Rule::TenantNamespace,
                    message,
                    "use a namespace that `tenants` allows this directory",
                );
            }
            Some(_) => {}
        }
    }

    fn repository(&mut self, place: &Place, name: &str) {
        match self.tenant(place) {
            None => self.homeless(place),
            Some(tenant) if !tenant.repositories.is_match(name) => {
                let message =
                    format!("directory `{}` may not name the repository `{name}`", tenant.directory.display());
                self.refuse(
                    place,
                    Rule::TenantRepository,
                    message,
                    "use a repository that `tenants` allows this directory",
                );
            }
            Some(_) => {}
        }
    }

    fn homeless(&mut self, place: &Place) {
        let file = place.location.file.display();
        if self
            .findings
            .iter()
            .any(|finding| finding.rule == Rule::TenantDirectory && finding.location.file == place.location.file)
        {
            return;
        }
        let message = format!("`{file}` is in the directory of no tenant");
        self.refuse(
            place,
            Rule::TenantDirectory,
            message,
            "move it, or add its directory to `tenants`; `.` stands for all the rest",
        );
    }

    fn refuse(&mut self, place: &Place, rule: Rule, message: String, hint: &str) {
        let mut finding = place.diagnostic(rule, message).hint(hint);
        finding.related = Some(self.settings.related("the settings that say so"));
        self.findings.push(finding);
    }
}
