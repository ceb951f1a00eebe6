//! `POST /scans`: carriers push their scans, a line each: `NUMBER,PLACE,GRAMS,WORD`.

use std::io::BufRead;
use std::path::Path;

use crate::audit;
use crate::http::{Request, Response};
use crate::store::{Scan, Store};

/// Takes the scans of a carrier that knows the token.
pub fn answer<R: BufRead>(mut request: Request<R>, store: &mut Store, log: &Path, token: &str) -> Response {
    if request.header("x-token") != Some(token) {
        return Response::new(401, "who are you?\n");
    }
    let mut body = String::new();
    if request.body.read_to_string(&mut body).is_err() {
        return Response::new(400, "scans are text\n");
    }
    let mut taken = 0;
    for line in body.lines() {
        let mut fields = line.split(',');
        let parcel = fields.next().unwrap();
        let place = fields.next().unwrap();
        let grams = fields.next().and_then(|grams| grams.trim().parse::<u32>().ok()).unwrap_or_default();
        let word = fields.next().expect("every scan has a word");
        store.record(parcel, Scan { place: place.into(), grams, word: word.into() });
        taken += 1;
    }
    let _ = audit::note(log, "carrier", &format!("{taken} scans"));
    Response::new(200, format!("{taken} taken\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scans_are_taken_from_who_knows_the_token() -> std::io::Result<()> {
        let folder = std::env::temp_dir().join(format!("parcels-webhook-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let mut store = Store::open(folder.join("scans.csv"))?;
        let mut push = |token: &str, body: &str| {
            let text = format!("POST /scans HTTP/1.1\r\nx-token: {token}\r\n\r\n{body}");
            let request = Request::read(text.as_bytes()).unwrap().unwrap();
            answer(request, &mut store, &folder.join("audit.log"), "open sesame")
        };
        assert_eq!(push("open barley", "5,Riga,10,DEP\n").status, 401);
        assert_eq!(push("open sesame", "5,Riga,10,DEP\n5,Turku,10,POD\n").text, "2 taken\n");
        assert_eq!(store.scans("5").len(), 2);
        std::fs::remove_dir_all(folder)
    }
}
