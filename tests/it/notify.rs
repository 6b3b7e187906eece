//! Notifications of the real daemon, to servers in the test that take what they publish: a webhook, Slack's, one of
//! healthchecks, and SMTP.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    runtime::Runtime,
};

use crate::{
    daemon::host::{Host, wait_for},
    forge::published::{Answer, Server},
};

/// The mails that a server took, as they came (RFC 5321, without encryption).
async fn mail_server() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let port = listener.local_addr().expect("an address").port();
    let mails: Arc<Mutex<Vec<String>>> = Arc::default();
    let taken = Arc::clone(&mails);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let taken = Arc::clone(&taken);
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let mut lines = BufReader::new(read).lines();
                let mut mail: Option<String> = None;
                write.write_all(b"220 tests\r\n").await.expect("a greeting");
                while let Ok(Some(line)) = lines.next_line().await {
                    let answer = match &mut mail {
                        Some(text) if line == "." => {
                            taken.lock().expect("no panic").push(std::mem::take(text));
                            mail = None;
                            "250 taken\r\n"
                        }
                        Some(text) => {
                            text.push_str(&format!("{line}\n"));
                            continue;
                        }
                        None if line.starts_with("DATA") => {
                            mail = Some(String::new());
                            "354 go on\r\n"
                        }
                        None if line.starts_with("QUIT") => "221 bye\r\n",
                        None => "250 fine\r\n",
                    };
                    if write.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, mails)
}

/// A host whose daemon tells everybody.
struct Told {
    host: Host,
    server: Server,
    seen: Mutex<Vec<(String, Value)>>,
    mails: Arc<Mutex<Vec<String>>>,
    _runtime: Runtime,
}

impl Told {
    fn new(answer: impl Fn(&crate::forge::published::Asked) -> Answer + Send + Sync + 'static) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let server = runtime.block_on(Server::start(answer));
        let (port, mails) = runtime.block_on(mail_server());
        let host = Host::new();
        for name in ["webhook", "slack", "ping"] {
            fs::write(host.path(name), format!("{}/{name}/canary-7f3d\n", server.url)).expect("a file");
        }
        let file = |name: &str| host.path(name).display().to_string();
        let settings = format!(
            "apiVersion: mainstay.dev/v1alpha1\nkind: Settings\nmetadata: {{name: settings}}\nspec:\n  notifications:\n    \
             - {{name: programs, webhook: {{url: {{file: {}}}}}}}\n    - {{name: team, policies: [\"shop/*\"], slack: \
             {{url: {{file: {}}}}}}}\n    - {{name: others, policies: [\"nobody/*\"], slack: {{url: {{file: {}}}}}}}\n    \
             - {{name: pings, healthchecks: {{url: {{file: {}}}}}}}\n    - name: office\n      email: {{server: \
             \"smtp://127.0.0.1:{port}\", from: backups@example.org, to: [ops@example.org]}}\n",
            file("webhook"),
            file("slack"),
            file("slack"),
            file("ping"),
        );
        let policy = host.policy("nightly", "  objectives: {rpo: 2s}");
        host.commit(&[
            ("backup.yaml", &policy),
            ("store.backup.yaml", &host.store()),
            ("settings.backup.yaml", &settings),
        ]);
        Self { host, server, seen: Mutex::default(), mails, _runtime: runtime }
    }

    /// What was posted so far: path and document.
    fn posts(&self) -> Vec<(String, Value)> {
        let mut seen = self.seen.lock().expect("no panic");
        seen.extend(self.server.asked().into_iter().map(|asked| (asked.path, asked.body)));
        seen.clone()
    }

    fn events(&self) -> Vec<String> {
        let posts = self.posts();
        let hooks = posts.iter().filter(|(path, _)| path.starts_with("/webhook"));
        hooks.map(|(_, body)| body["event"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

#[test]
fn a_failure_silence_and_their_end_are_told_once_each() {
    let told = Told::new(|_| Answer::json(Value::Null));
    let mut daemon = told.host.daemon();
    wait_for("the policy to be applied", || {
        told.host.mainstay(&["run", "shop/nightly"]).status.success().then_some(())
    });
    wait_for("silence after the RPO", || told.events().contains(&"silent".to_owned()).then_some(()));

    fs::rename(told.host.path("data"), told.host.path("away")).expect("the data vanish");
    for _ in 0..2 {
        assert!(!told.host.mainstay(&["run", "shop/nightly"]).status.success());
    }
    wait_for("the failure", || told.events().contains(&"failed".to_owned()).then_some(()));
    wait_for("two pings of a failure", || {
        (told.posts().iter().filter(|(path, _)| path.ends_with("/fail")).count() == 2).then_some(())
    });
    wait_for("a mail", || {
        let mails = told.mails.lock().expect("no panic");
        mails.iter().any(|mail| mail.contains("Subject: [mainstay] shop/nightly failed")).then_some(())
    });

    // What was told is known after a restart, too: the next failure is no news, but for the pings.
    assert!(daemon.terminate().success());
    let daemon = told.host.daemon();
    assert!(!told.host.mainstay(&["run", "shop/nightly"]).status.success());
    wait_for("a third ping of a failure", || {
        (told.posts().iter().filter(|(path, _)| path.ends_with("/fail")).count() == 3).then_some(())
    });

    fs::rename(told.host.path("away"), told.host.path("data")).expect("the data are back");
    told.host.good(&["run", "shop/nightly"]);
    wait_for("the recovery", || told.events().contains(&"succeeded".to_owned()).then_some(()));
    let events = told.events();
    for event in ["failed", "succeeded"] {
        assert_eq!(events.iter().filter(|told| *told == event).count(), 1, "{events:?}");
    }
    let chat = || -> Vec<String> {
        let posts = told.posts().into_iter().filter(|(path, _)| path.starts_with("/slack"));
        posts.map(|(_, body)| body["text"].as_str().expect("a text").to_owned()).collect()
    };
    wait_for("the chat", || chat().iter().any(|text| text.contains("succeeds again")).then_some(()));
    let chat = chat();
    assert_eq!(chat.iter().filter(|text| text.contains("shop/nightly failed")).count(), 1, "{chat:?}");
    assert_eq!(chat.iter().filter(|text| text.contains("succeeds again")).count(), 1, "{chat:?}");
    let posts = told.posts();
    assert!(posts.iter().any(|(path, _)| path == "/ping/canary-7f3d"), "a ping of a success");
    // The addresses are secrets.
    assert!(!daemon.log().contains("canary-7f3d"), "{}", daemon.log());
}

#[test]
fn a_receiver_that_does_not_answer_is_told_later() {
    let failing = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_down = Arc::clone(&failing);
    let told = Told::new(move |asked| {
        match asked.path.starts_with("/webhook") && is_down.load(std::sync::atomic::Ordering::Relaxed) {
            true => Answer::status(503, "down"),
            false => Answer::json(Value::Null),
        }
    });
    fs::rename(told.host.path("data"), told.host.path("away")).expect("the data vanish");
    let daemon = told.host.daemon();
    wait_for("the first run", || {
        told.host.mainstay(&["run", "shop/nightly"]);
        daemon.log().contains("could not be told").then_some(())
    });
    assert!(daemon.log().contains("it answered 503") && !daemon.log().contains("canary-7f3d"), "{}", daemon.log());
    // The others were told meanwhile.
    wait_for("the chat", || told.posts().iter().any(|(path, _)| path.starts_with("/slack")).then_some(()));
    failing.store(false, std::sync::atomic::Ordering::Relaxed);
    told.host.mainstay(&["run", "shop/nightly"]);
    wait_for("the failure", || {
        let posts = told.posts();
        posts.iter().any(|(path, body)| path.starts_with("/webhook") && body["event"] == "failed").then_some(())
    });
}

/// A run that is over before anybody looks has a start all the same, and it comes before its end.
#[test]
fn each_run_is_pinged_from_its_start_to_its_end() {
    let told = Told::new(|_| Answer::json(Value::Null));
    let _daemon = told.host.daemon();
    let pings = || -> Vec<String> {
        let posts = told.posts().into_iter();
        posts.filter_map(|(path, _)| path.strip_prefix("/ping/canary-7f3d").map(str::to_owned)).collect()
    };
    wait_for("three pings of a success", || {
        told.host.mainstay(&["run", "shop/nightly"]);
        (pings().iter().filter(|ping| ping.is_empty()).count() >= 3).then_some(())
    });
    for pair in pings().chunks_exact(2) {
        assert_eq!(pair, ["/start", ""], "{:?}", pings());
    }
}
