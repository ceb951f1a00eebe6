//! A cloud that is a real server: what is asked goes there, and what it answers comes back, unless a fault is due.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Fault, KEY, Reply, Request, whole};

/// One exchange. Both connections end with it.
pub async fn forward(
    client: &mut TcpStream,
    request: &Request,
    fault: Option<Fault>,
    address: SocketAddr,
    key: &str,
) -> std::io::Result<()> {
    if request.path.starts_with("/nightcrew/") {
        let Reply::Whole { status, headers, content_type, body } = Reply::refused(404, "no such route") else {
            return Ok(());
        };
        return whole(client, status, &headers, content_type, &body, body.len()).await;
    }
    if matches!(fault, Some(Fault::Vanish)) {
        end(request, address, key).await?;
    }
    let mut server = TcpStream::connect(address).await?;
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        match name.as_str() {
            "connection" | "transfer-encoding" | "content-length" => {}
            "x-api-key" if value == KEY => head.push_str(&format!("x-api-key: {key}\r\n")),
            _ => head.push_str(&format!("{name}: {value}\r\n")),
        }
    }
    head.push_str(&format!("content-length: {}\r\nconnection: close\r\n\r\n", request.body.len()));
    server.write_all(&[head.as_bytes(), &request.body].concat()).await?;
    // What is left of the answer's body; its head is always passed on.
    let mut left = usize::MAX;
    match fault {
        Some(Fault::Lost | Fault::Garbage(_)) => {
            // It has been carried out when its answer begins.
            let begun = server.read(&mut [0; 1]).await?;
            assert!(begun == 1, "the server behind ended without an answer");
            if let Some(Fault::Garbage(text)) = fault {
                return whole(client, 200, &[], "application/json", text.as_bytes(), text.len()).await;
            }
            return Ok(());
        }
        Some(Fault::Slow(pause)) => tokio::time::sleep(pause).await,
        Some(Fault::Torn(most) | Fault::VanishAfter(most)) => left = most,
        _ => {}
    }
    let (mut piece, mut begun, mut in_body) = (vec![0; 64 * 1024], Vec::new(), false);
    loop {
        let mut one = [0];
        let count = tokio::select! {
            count = server.read(&mut piece) => count?,
            // The client went away, and so do we.
            _ = client.peek(&mut one) => return Ok(()),
        };
        let mut bytes = &piece[..count];
        if bytes.is_empty() {
            return match fault {
                Some(Fault::VanishAfter(_)) => Err(std::io::Error::other("the answer was too short to vanish in it")),
                _ => client.flush().await,
            };
        }
        if !in_body {
            begun.extend_from_slice(bytes);
            let Some(end) = begun.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            client.write_all(&begun[..end + 4]).await?;
            in_body = true;
            bytes = &begun[end + 4..];
        }
        let passed = &bytes[..bytes.len().min(left)];
        client.write_all(passed).await?;
        left -= passed.len();
        if left == 0 {
            if matches!(fault, Some(Fault::VanishAfter(_))) {
                end(request, address, key).await?;
            }
            return client.flush().await;
        }
    }
}

/// Ends the sandbox that the request is about.
async fn end(request: &Request, address: SocketAddr, key: &str) -> std::io::Result<()> {
    let id = request.sandbox.clone().unwrap_or_default();
    let mut other = TcpStream::connect(address).await?;
    let kill =
        format!("DELETE /sandboxes/{id} HTTP/1.1\r\nhost: cloud\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n");
    other.write_all(kill.as_bytes()).await?;
    other.read_to_end(&mut Vec::new()).await?;
    Ok(())
}
