//! Commands in comments: a line that begins with `/mainstay`.
//!
//! Pure. The words are someone else's: they become a value of a closed set or a refusal, and nothing in between.

use jiff::Timestamp;

use crate::{
    plan::Digest,
    policy::{
        PolicyName,
        document::{
            API_VERSION, Metadata, RestoreDocument, RestoreSpec,
            restore::{Existing, Into, PointChoice},
        },
        is_name,
    },
};

/// What a command begins with.
pub const PREFIX: &str = "/mainstay";
/// What can be asked, for people.
pub const HELP: &str = "\
| command | what it does |
| --- | --- |
| `/mainstay plan` | plans this change request anew |
| `/mainstay approve DIGEST` | consents to exactly what the plan lists under this digest |
| `/mainstay run NAMESPACE/NAME` | runs a policy now, as it is applied |
| `/mainstay restore NAMESPACE/NAME [POINT] [sources=A,B] [path=/DIRECTORY] [claim=OLD=NEW] [namespace=NAME] [database=NAME] [existing=Update]` | opens a change request with a Restore; POINT is `latest`, an id, or `before=TIME`; without `path`, `claim`, `namespace` or `database` it goes in place, and needs consent |
| `/mainstay help` | says this |

Commands count from people who may write to this repository, one for each comment, in a comment that was not edited.
";
/// The longest line that is read as a command.
const LINE_BYTES: usize = 1000;

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// To plan anew.
    Plan,
    /// Consent.
    Approve(Digest),
    /// A run, now.
    Run(PolicyName),
    /// A change request with this restore.
    Restore(Box<RestoreOrder>),
    /// What can be asked.
    Help,
}

/// A restore that somebody asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct RestoreOrder {
    /// Of which policy.
    pub policy: PolicyName,
    /// Everything else.
    pub spec: RestoreSpec,
}

/// Why a line is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is none of this name.
    #[error("there is no command `{0}`")]
    Unknown(String),
    /// It needs something that is not there.
    #[error("`{command}` needs {what}")]
    Missing {
        /// Which.
        command: &'static str,
        /// What it needs.
        what: &'static str,
    },
    /// A word that it does not take.
    #[error("`{command}` does not take `{word}`")]
    Word {
        /// Which.
        command: &'static str,
        /// The word.
        word: String,
    },
    /// The line is too long to be one.
    #[error("the line is longer than {LINE_BYTES} bytes")]
    TooLong,
}

/// The command in a comment: that of its first line that begins with [`PREFIX`]. None: it has none, and quoting one
/// is none.
pub fn parse(body: &str) -> Option<Result<Command, CommandError>> {
    let line = body.lines().map(str::trim).find(|line| {
        let rest = line.strip_prefix(PREFIX);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
    })?;
    if line.len() > LINE_BYTES {
        return Some(Err(CommandError::TooLong));
    }
    let mut words = line.split_whitespace().skip(1);
    let name = words.next().unwrap_or("help");
    let words: Vec<&str> = words.collect();
    Some(match name {
        "plan" => alone("plan", &words).map(|()| Command::Plan),
        "help" => Ok(Command::Help),
        "approve" => approve(&words),
        "run" => run(&words),
        "restore" => restore(&words).map(|order| Command::Restore(Box::new(order))),
        other => Err(CommandError::Unknown(other.to_owned())),
    })
}

impl RestoreOrder {
    /// The document that asks for it, under a name of its own.
    pub fn document(&self, name: String) -> RestoreDocument {
        RestoreDocument {
            api_version: API_VERSION.to_owned(),
            kind: "Restore".to_owned(),
            metadata: Metadata {
                name,
                namespace: Some(self.policy.namespace().to_owned()),
                labels: Default::default(),
                annotations: Default::default(),
            },
            spec: self.spec.clone(),
        }
    }
}

fn alone(command: &'static str, words: &[&str]) -> Result<(), CommandError> {
    match words {
        [] => Ok(()),
        [word, ..] => Err(CommandError::Word { command, word: (*word).to_owned() }),
    }
}

fn approve(words: &[&str]) -> Result<Command, CommandError> {
    let (first, rest) = words
        .split_first()
        .ok_or(CommandError::Missing { command: "approve", what: "the digest that the plan shows" })?;
    alone("approve", rest)?;
    let digest = first.trim_matches('`');
    if !Digest::is_digest(digest) {
        return Err(CommandError::Missing { command: "approve", what: "the whole digest: 64 digits from 0 to f" });
    }
    Ok(Command::Approve(Digest(digest.to_owned())))
}

fn run(words: &[&str]) -> Result<Command, CommandError> {
    let (policy, rest) = policy("run", words)?;
    alone("run", rest)?;
    Ok(Command::Run(policy))
}

fn policy<'a, 'w>(command: &'static str, words: &'w [&'a str]) -> Result<(PolicyName, &'w [&'a str]), CommandError> {
    let what = "a policy, as NAMESPACE/NAME";
    let (first, rest) = words.split_first().ok_or(CommandError::Missing { command, what })?;
    let policy = first.parse().map_err(|_| CommandError::Missing { command, what })?;
    Ok((policy, rest))
}

fn restore(words: &[&str]) -> Result<RestoreOrder, CommandError> {
    const NAME: &str = "restore";
    let (policy, rest) = policy(NAME, words)?;
    let mut into = Into::default();
    let mut spec = RestoreSpec {
        policy: policy.name().to_owned(),
        repository: None,
        restore_point: PointChoice::default(),
        sources: Vec::new(),
        tables: Vec::new(),
        into: None,
        existing: Existing::Fail,
    };
    for (index, word) in rest.iter().enumerate() {
        let refused = || CommandError::Word { command: NAME, word: (*word).to_owned() };
        match word.split_once('=') {
            None if index == 0 => spec.restore_point = PointChoice::Name((*word).to_owned()),
            None => return Err(refused()),
            Some(("before", time)) => {
                let before: Timestamp = time.parse().map_err(|_| refused())?;
                spec.restore_point = PointChoice::Before { before };
            }
            Some(("sources", names)) => spec.sources = names.split(',').map(str::to_owned).collect(),
            Some(("path", path)) if path.starts_with('/') => into.path = Some(path.to_owned()),
            Some(("claim", pair)) => {
                let (old, new) = pair.split_once('=').ok_or_else(refused)?;
                if !is_name(old) || !is_name(new) {
                    return Err(refused());
                }
                into.claims.insert(old.to_owned(), new.to_owned());
            }
            Some(("namespace", name)) if is_name(name) => into.namespace = Some(name.to_owned()),
            Some(("database", name)) => into.database = Some(name.to_owned()),
            Some(("existing", "Update")) => spec.existing = Existing::Update,
            Some(("existing", "Fail")) => spec.existing = Existing::Fail,
            Some(_) => return Err(refused()),
        }
    }
    if into != Into::default() {
        spec.into = Some(into);
    }
    Ok(RestoreOrder { policy, spec })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(body: &str) -> Command {
        parse(body).expect("a command").expect("a good one")
    }

    #[test]
    fn commands_are_read_from_the_first_line_that_is_one() {
        let digest = "4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a";
        assert_eq!(good("/mainstay plan"), Command::Plan);
        assert_eq!(good(&format!("ok\r\n/mainstay approve `{digest}`\r\n")), Command::Approve(Digest(digest.into())));
        assert_eq!(good("/mainstay run shop/nightly"), Command::Run(PolicyName::new("shop", "nightly")));
        assert_eq!(good("/mainstay"), Command::Help);
    }

    #[test]
    fn what_is_no_command_is_none() {
        for body in ["", "say /mainstay plan", "> /mainstay approve x", "/mainstayplan", "`/mainstay plan`"] {
            assert!(parse(body).is_none(), "{body}");
        }
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        for (body, said) in [
            ("/mainstay destroy", "there is no command `destroy`"),
            ("/mainstay plan now", "`plan` does not take `now`"),
            ("/mainstay approve", "needs the digest"),
            ("/mainstay approve 4bf5", "the whole digest"),
            ("/mainstay run ../../etc", "needs a policy"),
            ("/mainstay run a/b; rm", "needs a policy"),
            ("/mainstay restore a/b latest path=relative", "does not take `path=relative`"),
            ("/mainstay restore a/b latest claim=data", "does not take `claim=data`"),
            ("/mainstay restore a/b latest claim=data=../x", "does not take `claim=data=../x`"),
            ("/mainstay restore a/b before=yesterday", "does not take `before=yesterday`"),
        ] {
            let error = parse(body).expect("a command").expect_err(body).to_string();
            assert!(error.contains(said), "{body}: {error}");
        }
        assert_eq!(parse(&format!("/mainstay {}", "x".repeat(2000))), Some(Err(CommandError::TooLong)));
    }

    #[test]
    fn a_restore_becomes_a_document_and_nothing_else() {
        let order = "/mainstay restore shop/nightly before=2026-11-20T12:00:00Z sources=files,db path=/srv/back \
                     existing=Update";
        let Command::Restore(order) = good(order) else { panic!("a restore") };
        let text = serde_yaml::to_string(&order.document("undo".to_owned())).expect("YAML");
        for line in ["kind: Restore", "namespace: shop", "before: 2026-11-20T12:00:00Z", "path: /srv/back"] {
            assert!(text.contains(line), "{text}");
        }
        let order = "/mainstay restore shop/nightly latest claim=data=restored claim=mail=old-mail namespace=lab";
        let Command::Restore(order) = good(order) else { panic!("a restore") };
        let text = serde_yaml::to_string(&order.document("undo".to_owned())).expect("YAML");
        for line in ["data: restored", "mail: old-mail", "namespace: lab"] {
            assert!(text.contains(line), "{text}");
        }
        // A name of a point that is YAML in itself stays a text.
        let Command::Restore(order) = good("/mainstay restore a/b {x:y}") else { panic!("a restore") };
        let text = serde_yaml::to_string(&order.document("undo".to_owned())).expect("YAML");
        let back: RestoreDocument = serde_yaml::from_str(&text).expect("it reads back");
        assert_eq!(back.spec.restore_point, PointChoice::Name("{x:y}".to_owned()));
    }
}
