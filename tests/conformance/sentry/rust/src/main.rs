//! Errors of a Rust program, sent by Sentry's own crate: `sends DSN`.

use std::error::Error;
use std::fmt;

#[derive(Debug)]
struct OrderError(std::num::ParseIntError);

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the order cannot be read")
    }
}

impl Error for OrderError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

fn order(text: &str) -> Result<u32, OrderError> {
    text.parse().map_err(OrderError)
}

fn shelf(index: usize) -> u32 {
    let shelves = [1, 2, 3];
    shelves[index]
}

fn main() {
    let dsn = std::env::args().nth(1).expect("a DSN");
    let mut options = sentry::ClientOptions::default();
    options.release = Some("shop-rust@1.4.0".into());
    options.environment = Some("production".into());
    options.server_name = Some("worker-1".into());
    options.in_app_include = vec!["sends"];
    let guard = sentry::init((dsn, options));
    sentry::configure_scope(|scope| {
        scope.set_user(Some(sentry::User { id: Some("u-7".into()), email: Some("private@example.com".into()), ..Default::default() }));
        scope.set_tag("queue", "push");
    });
    sentry::add_breadcrumb(sentry::Breadcrumb {
        category: Some("queue".into()),
        message: Some("took an order".into()),
        level: sentry::Level::Info,
        ..Default::default()
    });
    for text in ["12a", "x"] {
        if let Err(error) = order(text) {
            sentry::capture_error(&error);
        }
    }
    // What a panic of its own thread looks like.
    let thread = std::thread::spawn(|| shelf(std::hint::black_box(3)));
    assert!(thread.join().is_err());
    assert!(guard.close(Some(std::time::Duration::from_secs(20))));
}
