//! Servers on this host's loopback, and guests that speak to them.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

/// Where the guest finds this host's loopback.
pub(crate) const GATEWAY: &str = "198.19.255.1";

/// A server on the loopback that greets and hands its connections over.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) connections: Receiver<TcpStream>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, connections) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.write_all(b"hello\n");
                if sender.send(stream).is_err() {
                    return;
                }
            }
        });
        Self { port, connections }
    }

    pub(crate) fn rule(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    /// Nobody has connected since the last look.
    pub(crate) fn is_alone(&self) -> bool {
        self.connections.try_recv().is_err()
    }
}

/// Connects, prints the greeting, and with `then` more; or says why not.
pub(crate) fn client(port: u16, then: &str) -> String {
    format!(
        "perl -MIO::Socket::INET -e '$| = 1; my $s = IO::Socket::INET->new(PeerAddr => \"{GATEWAY}:{port}\") \
         or die \"$!\\n\"; print scalar <$s>; {then}'"
    )
}
