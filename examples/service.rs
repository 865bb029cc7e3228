//! Starts a server in a guest, reaches it through a port of this host, and stops it.
//!
//! `cargo run -p pyro-core --example service` after `cargo xtask demo` has built everything it needs.

#![allow(clippy::print_stdout)] // an example's output is its purpose

mod places;

use pyro_core::environments::Silent;
use pyro_core::exec::ExecRequest;
use pyro_core::services::{PortRequest, Readiness};
use pyro_core::workspace::{CreateWorkspace, Pyro, ServiceRequest, WorkspaceCommand};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An HTTP server of a few lines, in what debian:12 has.
const SERVER: &str = r#"exec perl -MIO::Socket::INET -e '
    my $listener = IO::Socket::INET->new(LocalAddr => "127.0.0.1:8080", Listen => 8, ReuseAddr => 1) or die;
    while (my $client = $listener->accept) {
        while (my $line = <$client>) { last if $line =~ /^\r?$/ }
        print $client "HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";
    }'"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pyro = Pyro::open(places::config()?)?;
    let request = CreateWorkspace {
        mem_mib: 256,
        network_policy: "egress+published-ports".to_owned(),
        ..CreateWorkspace::new("debian:12")
    };
    let made = pyro.create(&request, Arc::new(Silent), &|step| println!("{step:?}")).await?;
    let done = serve(&pyro, &made.workspace_id).await;
    pyro.delete(&made.workspace_id).await?;
    done
}

async fn serve(pyro: &Pyro, id: &str) -> Result<(), Box<dyn std::error::Error>> {
    let command = WorkspaceCommand { exec: ExecRequest::shell(SERVER), shown_command: SERVER.to_owned() };
    let request = ServiceRequest {
        readiness: Some(Readiness::Http { url: "http://127.0.0.1:8080/".to_owned() }),
        // A host port that is free.
        publish: vec![PortRequest { host_port: None, guest_port: 8080 }],
        ..ServiceRequest::new("web", command)
    };
    let service = pyro.service_start(id, &request).await?;
    let port = service.published_ports.first().ok_or("no port was published")?.host_port;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    println!("{} at {address}: {}", service.service_name, get(address).await?.trim_end());

    println!("stopped: {}", pyro.service_stop(id, "web").await?.state);
    println!("afterwards: {}", TcpStream::connect(address).await.err().ok_or("the port is still there")?);
    Ok(())
}

async fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
