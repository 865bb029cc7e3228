//! A small HTTP server that says whatever a test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| &**v)
    }
}

/// What is answered.
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
}

enum Body {
    Whole(Vec<u8>),
    /// Promises more than it sends.
    Cut(Vec<u8>, usize),
    Endless,
    /// Sends the start and then nothing.
    Silent(Vec<u8>, usize),
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: Body::Whole(body.into()) }
    }

    pub(crate) fn cut(body: &[u8], at: usize) -> Self {
        Self { status: 200, headers: Vec::new(), body: Body::Cut(body[..at].to_vec(), body.len()) }
    }

    pub(crate) fn silent(body: &[u8], at: usize) -> Self {
        Self { status: 200, headers: Vec::new(), body: Body::Silent(body[..at].to_vec(), body.len()) }
    }

    pub(crate) fn endless() -> Self {
        Self { status: 200, headers: Vec::new(), body: Body::Endless }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// A server on a loopback port; its threads end with the process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let seen = Arc::clone(&log);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                std::thread::spawn(move || serve(stream, &*answer, &seen));
            }
        });
        Self { address, log }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, answer: &dyn Fn(&Asked) -> Answer, log: &Mutex<Vec<Asked>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.trim().split_once(':') {
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    let mut asked = Asked { method, path, headers, body: Vec::new() };
    let len: u64 = asked.header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
    drop(reader.take(len).read_to_end(&mut asked.body));
    log.lock().unwrap().push(asked.clone());
    // The client hangs up on liars: errors are what is being tested.
    let _ = send(stream, answer(&asked));
}

fn send(mut stream: TcpStream, answer: Answer) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let len = match &answer.body {
        Body::Whole(body) => Some(body.len()),
        Body::Cut(_, len) | Body::Silent(_, len) => Some(*len),
        Body::Endless => None,
    };
    if let Some(len) = len {
        head.push_str(&format!("Content-Length: {len}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    match answer.body {
        Body::Whole(body) | Body::Cut(body, _) => stream.write_all(&body),
        Body::Endless => loop {
            stream.write_all(&[b' '; 4096])?;
        },
        Body::Silent(body, _) => {
            stream.write_all(&body)?;
            // Until the client gives up.
            std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
        }
    }
}
