//! A git server on loopback: git's own `http-backend` behind a few lines of HTTP, so that tokens, pushes and refusals
//! are those of a real remote.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// The connection ends before anything was done.
    BreaksOff,
    /// It is carried out, and the connection ends before the answer.
    LosesAnswer,
}

/// What becomes of the request with this first line.
type Forecast = Arc<Mutex<Box<dyn Fn(&str) -> Weather + Send>>>;

/// Serves the bare repositories below a directory for as long as the test process lives.
pub struct Server {
    pub address: String,
    /// Requests so far.
    pub requests: Arc<AtomicUsize>,
    forecast: Forecast,
}

/// `Basic` credentials that are let in: `oauth2:good-token`.
const AUTHORIZATION: &str = "Basic b2F1dGgyOmdvb2QtdG9rZW4=";

impl Server {
    pub fn start(root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(AtomicUsize::new(0));
        let forecast: Forecast = Arc::new(Mutex::new(Box::new(|_| Weather::Fair)));
        let (root, counter, weather) = (root.to_owned(), Arc::clone(&requests), Arc::clone(&forecast));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (root, counter, weather) = (root.clone(), Arc::clone(&counter), Arc::clone(&weather));
                std::thread::spawn(move || serve(stream, &root, &counter, &weather));
            }
        });
        Self { address, requests, forecast }
    }

    /// Says what becomes of requests from now on.
    pub fn weather(&self, forecast: impl Fn(&str) -> Weather + Send + 'static) {
        *self.forecast.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(forecast);
    }
}

/// Answers one request and closes; what goes wrong shows on the other side.
fn serve(stream: TcpStream, root: &Path, counter: &AtomicUsize, forecast: &Forecast) -> Option<()> {
    counter.fetch_add(1, Ordering::SeqCst);
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let weather = forecast.lock().unwrap_or_else(PoisonError::into_inner)(lines.first()?);
    if weather == Weather::BreaksOff {
        return None;
    }
    let mut request = lines.first()?.split(' ');
    let (method, target) = (request.next()?.to_owned(), request.next()?.to_owned());
    let header = |name: &str| {
        lines
            .iter()
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|pair| pair.1)
    };
    let body = match header("content-length") {
        Some(length) => {
            let mut body = vec![0; length.parse().ok()?];
            reader.read_exact(&mut body).ok()?;
            body
        }
        None if header("transfer-encoding") == Some("chunked") => read_chunks(&mut reader)?,
        None => Vec::new(),
    };
    let mut stream = stream;
    if header("authorization") != Some(AUTHORIZATION) {
        let head = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\n";
        stream.write_all(format!("{head}Content-Length: 0\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
        return Some(());
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let answer = backend(root, &method, path, query, header("content-type").unwrap_or_default(), &body)?;
    if weather == Weather::LosesAnswer {
        return None;
    }
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    let content = &answer[end + 4..];
    let headers: String =
        head.lines().filter(|line| !line.starts_with("Status: ")).map(|line| format!("{line}\r\n")).collect();
    let length = content.len();
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(content).ok()
}

fn read_chunks(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        reader.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(&chunk[..size]);
    }
}

fn backend(root: &Path, method: &str, path: &str, query: &str, content_type: &str, body: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", PathBuf::from(root))
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("REMOTE_USER", "oauth2")
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", content_type)
        .env("CONTENT_LENGTH", body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut input = child.stdin.take()?;
    let body = body.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&body));
    let output = child.wait_with_output().ok()?;
    let _ = writer.join();
    Some(output.stdout)
}
