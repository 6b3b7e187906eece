//! Defaults filled in, so that two ways to write the same policy are the same policy.

use crate::policy::{
    PolicyName,
    document::{
        BackupPolicyDocument, DurationText, OneOrMany, RepositoryDocument, RestoreDocument, backup_policy::Retention,
    },
};

const FIVE_MINUTES: DurationText = DurationText::from_seconds(300);
const DAY: DurationText = DurationText::from_seconds(86_400);

/// Fills in the defaults of a policy.
pub fn policy(document: &mut BackupPolicyDocument) {
    document.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    let spec = &mut document.spec;
    if let OneOrMany::Many(expressions) = &mut spec.schedule
        && expressions.len() == 1
    {
        spec.schedule = OneOrMany::One(expressions.remove(0));
    }
    spec.jitter = spec.jitter.filter(|jitter| jitter.seconds() != 0);
    if let Some(quiesce) = &mut spec.quiesce {
        quiesce.timeout.get_or_insert(FIVE_MINUTES);
    }
    for hook in spec.hooks.before.iter_mut().chain(&mut spec.hooks.after) {
        hook.timeout.get_or_insert(FIVE_MINUTES);
    }
    retention(&mut spec.retention);
    if let Some(verify) = &mut spec.verify {
        verify.read_data.get_or_insert_with(|| "0%".to_owned());
    }
    spec.limits.get_or_insert_default().timeout.get_or_insert(DAY);
    for source in &mut spec.sources {
        for (database, port) in [(&mut source.postgres, 5432), (&mut source.mysql, 3306), (&mut source.mariadb, 3306)] {
            // A host that begins with `/` is the directory of a socket; its name has the port in it all the same.
            if let Some(database) = database.as_mut().filter(|database| database.host.is_some()) {
                database.port.get_or_insert(port);
            }
        }
        if let Some(command) = &mut source.command {
            command.file_name.get_or_insert_with(|| source.name.clone());
        }
    }
}

/// Rules that keep nothing are as good as not written: then the defaults count, and only `grace` is the user's.
fn retention(rules: &mut Retention) {
    for count in [
        &mut rules.keep_last,
        &mut rules.keep_hourly,
        &mut rules.keep_daily,
        &mut rules.keep_weekly,
        &mut rules.keep_monthly,
        &mut rules.keep_yearly,
    ] {
        *count = count.filter(|count| *count != 0);
    }
    rules.keep_within = rules.keep_within.filter(|within| !within.is_zero());
    let Retention { keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly, keep_within, grace } =
        &*rules;
    let counts = [keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly];
    let grace = Some(grace.unwrap_or(DAY));
    if counts.iter().all(|count| count.is_none()) && keep_within.is_none() {
        *rules = Retention::default();
    }
    rules.grace = grace;
}

/// Fills in the defaults of a repository.
pub fn repository(document: &mut RepositoryDocument) {
    document.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    if let Some(s3) = &mut document.spec.s3 {
        s3.region.get_or_insert_with(|| "us-east-1".to_owned());
        let end = s3.endpoint.trim_end_matches('/').len();
        s3.endpoint.truncate(end);
        s3.prefix =
            s3.prefix.as_deref().map(|prefix| prefix.trim_matches('/').to_owned()).filter(|prefix| !prefix.is_empty());
    }
}

/// Fills in the defaults of a restore; the policy is named in full.
pub fn restore(document: &mut RestoreDocument, policy: &PolicyName) {
    document.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    document.spec.policy = policy.to_string();
}
