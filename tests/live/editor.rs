//! What an editor shows: the language server that editors check YAML with, told of the schema by the line that `init`
//! writes and by nothing else.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use serde_json::{Value, json};

use crate::peers::Peers;

/// How long one message of the server is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn an_editor_checks_explains_and_completes_a_first_document() {
    let folder = tempfile::tempdir_in(Peers::scratch()).expect("a folder");
    let init = Command::new(env!("CARGO_BIN_EXE_mainstay")).arg("init").arg("--path").arg(folder.path()).output();
    assert!(init.expect("the binary under test").status.success());
    let file = folder.path().join("backup.yaml");
    let good = fs::read_to_string(&file).expect("the document");
    let mut server = Server::start(folder.path());

    assert_eq!(server.open(&file, &good), Vec::<String>::new(), "the first document has no findings");

    let hover = server.ask("textDocument/hover", &file, place(&good, "keepWeekly"));
    let text = hover["contents"]["value"].as_str().expect("an explanation");
    assert!(text.contains("For the last N weeks"), "{text}");

    // What is wrong is shown where it stands.
    let bad = good.replace("keepDaily: 7", "keepDayly: 7").replace("timeZone: UTC", "timeZone: 5");
    let findings = server.open(&folder.path().join("bad.backup.yaml"), &bad);
    assert_eq!(findings.len(), 2, "{findings:?}");
    let line = |word: &str| place(&bad, word)["line"].as_u64().expect("a line");
    assert!(findings[0].starts_with(&format!("{} Incorrect type", line("timeZone"))), "{findings:?}");
    assert_eq!(findings[1], format!("{} Property keepDayly is not allowed.", line("keepDayly")));

    // A field that is begun is completed.
    let begun = good.replace("    keepWeekly: 4\n", "    keepW\n");
    let file = folder.path().join("begun.backup.yaml");
    server.open(&file, &begun);
    let mut end = place(&begun, "keepW");
    end["character"] = json!(end["character"].as_u64().expect("a column") + 5);
    let offered = server.ask("textDocument/completion", &file, end);
    let items = offered["items"].as_array().expect("offers");
    let labels: Vec<&str> = items.iter().filter_map(|item| item["label"].as_str()).collect();
    assert!(labels.contains(&"keepWeekly") && labels.contains(&"keepWithin"), "{labels:?}");
}

#[test]
fn every_example_is_good_in_an_editor() {
    let folder = tempfile::tempdir_in(Peers::scratch()).expect("a folder");
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/backup.schema.json");
    let mut server = Server::start(folder.path());
    let mut seen = 0;
    let mut pending = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).expect("the examples") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                pending.push(path);
            } else if path.to_string_lossy().ends_with("backup.yaml") {
                let text = fs::read_to_string(&path).expect("a document");
                let (line, _) = text.split_once('\n').expect("a first line");
                let named = line.strip_prefix("# yaml-language-server: $schema=").expect("the line for the editor");
                let named = path.parent().expect("a folder").join(named).canonicalize().expect("the schema");
                assert_eq!(named, schema, "{}", path.display());
                assert_eq!(server.open(&path, &text), Vec::<String>::new(), "{}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "{seen} examples");
}

/// Where a word begins, as the protocol counts.
fn place(text: &str, word: &str) -> Value {
    let (line, column) = text
        .lines()
        .enumerate()
        .find_map(|(number, line)| line.find(word).map(|column| (number, column)))
        .expect("the word is there");
    json!({"line": line, "character": column})
}

/// The language server, spoken to over its standard input and output.
struct Server {
    child: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    requests: u64,
}

impl Server {
    fn start(root: &Path) -> Self {
        let mut child = Command::new("node")
            .arg(Peers::yaml_language_server())
            .arg("--stdio")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is installed");
        let input = child.stdin.take().expect("its standard input");
        let mut output = BufReader::new(child.stdout.take().expect("its standard output"));
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            while let Some(message) = receive(&mut output) {
                // The test may have what it wanted.
                let _ = sender.send(message);
            }
        });
        let mut server = Self { child, input, messages, requests: 0 };
        let hover = json!({"hover": {"contentFormat": ["markdown"]}, "publishDiagnostics": {}});
        server.request(
            "initialize",
            json!({"processId": null, "rootUri": address(root), "capabilities": {"textDocument": hover}}),
        );
        server.send(&json!({"method": "initialized", "params": {}}));
        server
    }

    /// Opens a text under a name, once: the findings, each `LINE MESSAGE`, sorted.
    fn open(&mut self, file: &Path, text: &str) -> Vec<String> {
        let uri = address(file);
        let document = json!({"uri": uri, "languageId": "yaml", "version": 1, "text": text});
        self.send(&json!({"method": "textDocument/didOpen", "params": {"textDocument": document}}));
        let is_answer = |message: &Value| {
            message["method"] == "textDocument/publishDiagnostics" && message["params"]["uri"] == json!(uri)
        };
        let answer = self.wait(is_answer);
        let findings = answer["params"]["diagnostics"].as_array().expect("a list").clone();
        let mut findings: Vec<(u64, String)> = findings
            .iter()
            .map(|finding| {
                let message = finding["message"].as_str().unwrap_or_default();
                (finding["range"]["start"]["line"].as_u64().unwrap_or_default(), message.to_owned())
            })
            .collect();
        findings.sort();
        findings.into_iter().map(|(line, message)| format!("{line} {message}")).collect()
    }

    fn ask(&mut self, method: &str, file: &Path, position: Value) -> Value {
        self.request(method, json!({"textDocument": {"uri": address(file)}, "position": position}))
    }

    fn request(&mut self, method: &str, params: Value) -> Value {
        self.requests += 1;
        let id = format!("test-{}", self.requests);
        self.send(&json!({"id": id, "method": method, "params": params}));
        self.wait(|message| message["id"] == json!(id))["result"].take()
    }

    fn send(&mut self, message: &Value) {
        let mut message = message.clone();
        message["jsonrpc"] = json!("2.0");
        let text = message.to_string();
        write!(self.input, "Content-Length: {}\r\n\r\n{text}", text.len()).expect("the server listens");
        self.input.flush().expect("the server listens");
    }

    /// The first message that matches. What the server asks meanwhile is answered with nothing.
    fn wait(&mut self, matches: impl Fn(&Value) -> bool) -> Value {
        loop {
            let message = self.messages.recv_timeout(PATIENCE).expect("the language server answers");
            if matches(&message) {
                return message;
            }
            if !message["method"].is_null() && !message["id"].is_null() {
                let items = message["params"]["items"].as_array().map_or(0, Vec::len);
                self.send(&json!({"id": message["id"], "result": vec![Value::Null; items]}));
            }
        }
    }
}

/// The next message; none: the server ended.
fn receive(output: &mut BufReader<ChildStdout>) -> Option<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if output.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().ok()?,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    output.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(path: &Path) -> String {
    format!("file://{}", path.display())
}
