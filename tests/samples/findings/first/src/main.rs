//! The server: one connection after the other.

use std::error::Error;
use std::io::BufReader;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use parcels::http::{Request, Response};
use parcels::store::Store;
use parcels::{audit, track};

fn main() -> Result<(), Box<dyn Error>> {
    let port: u16 = std::env::args().nth(1).unwrap().parse()?;
    let file = std::env::args().nth(2).unwrap_or_else(|| "scans.csv".into());
    let mut store = Store::open(&file)?;
    audit::note(Path::new("audit.log"), "server", "started")?;
    for stream in TcpListener::bind(("127.0.0.1", port))?.incoming() {
        // Who hangs up half-way is not our trouble.
        let _ = serve(stream?, &mut store);
    }
    Ok(())
}

fn serve(stream: TcpStream, store: &mut Store) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)));
    let Some(request) = Request::read(BufReader::new(&stream))? else { return Ok(()) };
    let response = match (request.method.as_str(), request.path.strip_prefix("/parcels/")) {
        ("GET", Some(parcel)) => track::answer(store, parcel),
        _ => Response::new(404, "there is nothing here\n"),
    };
    response.write(&mut &stream)
}
