//! `GET /parcels/NUMBER`.

use crate::http::Response;
use crate::status::Status;
use crate::store::Store;

/// Where the parcel of that number is.
pub fn answer(store: &Store, parcel: &str) -> Response {
    let scans = store.scans(parcel);
    if scans.is_empty() {
        return Response::new(404, "no parcel has this number\n");
    }
    let last = scans.last().unwrap();
    let status = Status::of(&last.word).text();
    Response::new(200, format!("{parcel}: {status}, last seen in {}\n", last.place))
}
