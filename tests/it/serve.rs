//! The shipped `analytics-report` over other people's services: another SQLite file, an HTTP source and a scripted model, both of
//! which echo the credentials that they were given. Secrets must be nowhere afterwards.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::fakes::model::{ModelServer, Reply, Request};
use crate::project::Project;

const MODEL_KEY: &str = "sk-ant-canary-7f3a9d1c5e8b2460";
const SHOP_KEY: &str = "shop-canary-c04d1b7a99e65f32";

/// An HTTP service with numbers per day. It wants the key, and tells it to everybody.
struct Shop {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Shop {
    fn start(rows: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &rows, &log);
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(stream: TcpStream, rows: &Value, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(&stream).lines();
    let asked = lines.next().unwrap().unwrap();
    let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let key = head.iter().find_map(|line| line.strip_prefix("authorization: Bearer ")).unwrap_or_default().to_owned();
    log.lock().unwrap().push(asked);
    let (status, body) = match key == SHOP_KEY {
        true => ("200 OK", json!({"data": rows, "you_sent": key})),
        false => ("401 Unauthorized", json!({"error": format!("`{key}` may not do that")})),
    };
    let body = body.to_string();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    // A client that has gone away needs no answer.
    drop((&stream).write_all(answer.as_bytes()));
}

/// The last nine weeks up to Thu 2026-11-19.
fn days() -> impl Iterator<Item = jiff::civil::Date> {
    let last: jiff::civil::Date = "2026-11-19".parse().unwrap();
    (0..63).rev().map(move |back| last.checked_sub(jiff::Span::new().days(back)).unwrap())
}

fn script(request: &Request) -> Reply {
    if request.model().contains("haiku") {
        return Reply::json(&json!({
            "headline": "Checkout errors at 90 against the usual 30",
            "bullets": ["Sign-ups as usual: 200.", "4711 is a figure that stands nowhere."]
        }));
    }
    match request.turn() {
        0 => Reply::text("I look at the day.")
            .and_call("checkout", &json!({"from": "2026-11-19", "to": "2026-11-19"}))
            .and_call("signups", &json!({"from": "2026-11-19", "to": "2026-11-19"})),
        // It repeats what it saw, keys and all.
        _ => Reply::json(&json!({"causes": [{
            "metric": "checkout.errors", "cause": "unknown",
            "evidence": format!("90 against 30; a note said {SHOP_KEY}")
        }]})),
    }
}

/// The shipped pipeline over a warehouse and a shop of its own.
fn project(model: &ModelServer, shop: &Shop) -> Project {
    let project = Project::new(&[], None);
    project.write("pipelines/analytics-report.yaml", include_str!("../../pipelines/analytics-report.yaml"));
    project.write("pipelines/sql/signups.sql", include_str!("../../pipelines/sql/signups.sql"));
    project.write("config/model.key", &format!("{MODEL_KEY}\n"));
    project.write("config/shop.key", &format!("{SHOP_KEY}\n"));
    let (model, shop) = (model.url(), &shop.address);
    project.write(
        "config/nightcrew.yaml",
        &format!(
            "version: 1\n\
             secrets: {{MODEL: {{file: model.key}}, SHOP: {{file: shop.key}}}}\n\
             models:\n\
             \x20 boss: {{provider: anthropic, model: claude-opus-5-5, base_url: \"{model}\", api_key: secret:MODEL}}\n\
             \x20 intern: {{provider: anthropic, model: claude-haiku-5-5, base_url: \"{model}\", api_key: secret:MODEL}}\n\
             prices: prices.yaml\n\
             sources:\n\
             \x20 warehouse: {{sqlite: ../other.db}}\n\
             \x20 shop: {{http: \"{shop}\", auth: {{bearer: secret:SHOP}}}}\n\
             http: {{listen: \"127.0.0.1:0\"}}\n"
        ),
    );
    let database = rusqlite::Connection::open(project.path("other.db")).unwrap();
    database
        .execute_batch("CREATE TABLE signups_daily (day TEXT, channel TEXT, signups INTEGER, activated INTEGER)")
        .unwrap();
    for day in days() {
        let insert = "INSERT INTO signups_daily VALUES (?1, 'search', 120, 60), (?1, 'direct', 80, 30)";
        database.execute(insert, [day.to_string()]).unwrap();
    }
    project
}

fn shop() -> Shop {
    let row = |day: jiff::civil::Date| {
        let errors = if day.to_string() == "2026-11-19" { 90 } else { 30 };
        json!({"day": day.to_string(), "errors": errors, "note": format!("key {SHOP_KEY}")})
    };
    Shop::start(days().map(row).collect())
}

#[test]
fn the_shipped_report_runs_over_other_services_and_their_keys_are_nowhere() {
    let model = ModelServer::setup(script).key(MODEL_KEY).start();
    let shop = shop();
    let project = project(&model, &shop);
    let run = ["--json", "-vv", "run", "analytics-report", "--set", "day=2026-11-19"];
    let good = project.run(&run).ends(0);
    let ran = &good.json()["runs"][0];
    assert_eq!(
        json!([ran["profile"], ran["outcome"], ran["turns"], ran["boss"]["calls"], ran["intern"]["calls"]]),
        json!(["local", "reported", 2, 2, 2]),
        "the intern was asked to correct its figure once"
    );
    model.assert_clean();
    assert_eq!(
        shop.asked(),
        [
            "GET /v1/checkout/errors?from=2026-09-24&to=2026-11-19 HTTP/1.1",
            "GET /v1/checkout/errors?from=2026-11-19&to=2026-11-19 HTTP/1.1"
        ]
    );
    let path = ran["receipts"][0]["url_or_path"].as_str().unwrap();
    let report = std::fs::read_to_string(path).unwrap();
    for part in ["# Checkout errors at 90 against the usual 30", "| checkout.errors | 90 | 30 | +60 | +200 % | yes |"] {
        assert!(report.contains(part), "{part} is missing in\n{report}");
    }
    assert!(!report.contains("4711"), "a figure that stands nowhere is dropped:\n{report}");

    // Keys that were taken away: the services say so, with the key in their words.
    project.write("config/model.key", "sk-ant-canary-wrong-1f2e3d4c5b6a\n");
    let refused = project.run(&run).ends(1);
    let ran = &refused.json()["runs"][0];
    assert_eq!((&ran["outcome"], &ran["failure"]["code"]), (&json!("blocked"), &json!("E-CREDENTIAL")), "{ran}");
    project.write("config/shop.key", "shop-canary-wrong-9a8b7c6d5e4f\n");
    let dead = project.run(&run).ends(1);
    assert_eq!(dead.json()["runs"][0]["outcome"], "blocked", "{}", dead.out);

    // The model itself was never shown one, and nothing here or on the terminal holds one.
    let mut places: Vec<(String, Vec<u8>)> =
        model.requests().into_iter().map(|r| (format!("request {}", r.number), r.raw)).collect();
    for answer in [good, refused, dead, project.run(&["runs"]), project.run(&["doctor"])] {
        places.push(("stdout".into(), answer.out.into_bytes()));
        places.push(("stderr".into(), answer.err.into_bytes()));
    }
    for path in files(&project.path("state")) {
        let mut bytes = Vec::new();
        std::fs::File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
        places.push((path.display().to_string(), bytes));
    }
    let keys = [MODEL_KEY, SHOP_KEY, "sk-ant-canary-wrong-1f2e3d4c5b6a", "shop-canary-wrong-9a8b7c6d5e4f"];
    for (place, bytes) in &places {
        for form in keys.iter().flat_map(|key| forms(key)) {
            assert!(!contains(bytes, form.as_bytes()), "`{form}` stands in {place}");
        }
    }
    assert!(places.iter().any(|(place, bytes)| place.ends_with("nightcrew.db") && !bytes.is_empty()));
}

/// A key as it is, in hexadecimal, and in base64 at any of three offsets (without the ends, which depend on the neighbours).
fn forms(key: &str) -> Vec<String> {
    let mut forms = vec![key.to_owned(), key.bytes().map(|byte| format!("{byte:02x}")).collect()];
    for offset in 0..3 {
        let bytes: Vec<u8> = std::iter::repeat_n(b' ', offset).chain(key.bytes()).collect();
        let text = base64(&bytes[..bytes.len() / 3 * 3]);
        forms.push(text[4 * usize::from(offset > 0)..].to_owned());
    }
    forms
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let of = |three: &[u8]| {
        let bits = three.iter().fold(0usize, |bits, byte| bits << 8 | usize::from(*byte));
        [18, 12, 6, 0].map(|shift| char::from(DIGITS[bits >> shift & 63]))
    };
    bytes.chunks_exact(3).flat_map(of).collect()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_none_or(|end| end != "sock") {
            found.push(path);
        }
    }
    found
}
