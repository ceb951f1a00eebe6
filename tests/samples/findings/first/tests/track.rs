//! What people are told about their parcels.

use parcels::http::Request;
use parcels::status::Status;
use parcels::store::{Scan, Store};
use parcels::track::answer;

fn store(name: &str) -> Store {
    let file = std::env::temp_dir().join(format!("parcels-{name}-{}", std::process::id()));
    std::fs::remove_file(&file).unwrap_or_default();
    Store::open(file).unwrap()
}

fn scan(place: &str, word: &str) -> Scan {
    Scan { place: place.into(), grams: 500, word: word.into() }
}

#[test]
fn the_last_scan_is_told() {
    let mut store = store("last");
    store.record("77", scan("Riga", "DEP")).unwrap();
    store.record("77", scan("Turku", "POD")).unwrap();
    let response = answer(&store, "77");
    assert_eq!((response.status, response.text.as_str()), (200, "77: delivered, last seen in Turku\n"));
}

#[test]
fn an_unknown_number_is_not_found() {
    assert_eq!(answer(&store("none"), "1").status, 404);
}

#[test]
fn scans_outlive_the_server() {
    let file = std::env::temp_dir().join(format!("parcels-again-{}", std::process::id()));
    Store::open(&file).unwrap().record("9", scan("Oulu", "HUB")).unwrap();
    assert_eq!(Store::open(&file).unwrap().scans("9"), [scan("Oulu", "HUB")]);
    std::fs::remove_file(file).unwrap();
}

#[test]
fn every_word_has_a_meaning() {
    assert_eq!(Status::of("ARR"), Status::OnItsWay);
    assert_eq!(Status::of("???"), Status::Unknown);
}

#[test]
fn headers_are_found_in_any_case() {
    let request = Request::read(&b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"[..]).unwrap().unwrap();
    assert_eq!((request.path.as_str(), request.header("host")), ("/", Some("here")));
}
