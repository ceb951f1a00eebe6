//! The client against a server that does as it is told and counts.

use std::net::TcpListener;
use std::path::PathBuf;

use serde_json::json;

use super::script::{Reply, Server, T0, no, ok, with_secret};
use super::*;
use crate::ports::service::Service;

#[tokio::test]
async fn a_read_is_repeated_with_pauses_and_a_write_is_sent_once() {
    let broken = [Reply::Cut, no(502, "bad"), Reply::Half(200), Reply::Text(200, "<html>".into())];
    for reply in broken {
        let folder = tempfile::tempdir().unwrap();
        let again = reply.clone();
        let server = Server::new(move |_, before| if before < 3 { again.clone() } else { ok(json!({"a": 1})) });
        let answer = server.client(&folder).get("/repos/a/b", &[("q", "x y&z".into())]).await.unwrap();
        assert_eq!((answer, server.lines()), (json!({"a": 1}), vec!["GET /repos/a/b?q=x%20y%26z".to_owned(); 4]));
        let slept = server.slept();
        assert!(slept.len() == 3 && slept[2] > slept[0] / 2, "{slept:?}");

        let server = Server::new(move |_, _| reply.clone());
        let error = server.client(&folder).write(Write::Post, "/repos/a/b/pulls", &json!({})).await.unwrap_err();
        assert!(matches!(error, GitHubError::Ambiguous { .. }), "{error:?}");
        assert_eq!(server.lines(), ["POST /repos/a/b/pulls"]);
        assert_eq!(server.asked.lock().unwrap()[0].authorization, "Bearer hunter2");
    }
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|_, _| no(500, "down"));
    let error = server.client(&folder).get("/x", &[]).await.unwrap_err();
    assert!(matches!(error, GitHubError::Unavailable { .. }), "{error:?}");
    let waited: Duration = server.slept().iter().sum();
    assert!(server.lines().len() <= 8 && waited <= Duration::from_secs(70), "{waited:?}");
}

#[tokio::test]
async fn each_refusal_says_what_to_do_next_and_nothing_is_repeated() {
    let cases: [(Reply, &str); 9] = [
        (no(401, "Bad credentials"), "GitHub refuses the secret `GITHUB`: Bad credentials"),
        (no(403, "Resource not accessible"), "GitHub does not allow it: Resource not accessible"),
        (no(404, "Not Found"), "GitHub knows no `/repos/a/b`, or does not show it to this credential"),
        (no(409, "is at 1 but expected 2"), "GitHub says that it has changed meanwhile: is at 1 but expected 2"),
        (
            Reply::Json(
                422,
                Vec::new(),
                json!({"message": "Validation Failed", "errors": [{"field": "head", "code": "invalid"},
                    {"message": "A pull request already exists for a:b."}]}),
            ),
            "GitHub does not take it: Validation Failed; head: invalid; A pull request already exists for a:b.",
        ),
        (no(410, "gone"), "GitHub knows no `/repos/a/b`, or does not show it to this credential"),
        (no(301, "Moved Permanently"), "GitHub has moved `/repos/a/b` to another place"),
        (no(418, "your token hunter2\nis"), "GitHub does not take it: your token [secret] is"),
        (no(429, ""), "GitHub's rate limit is used up for 60 s"),
    ];
    for (reply, shown) in cases {
        let folder = tempfile::tempdir().unwrap();
        let limited = shown.contains("rate limit");
        let server = Server::new(move |_, _| reply.clone());
        let client = server.client(&folder);
        let error = client.write(Write::Patch, "/repos/a/b", &json!({})).await.unwrap_err();
        assert_eq!(error.to_string(), shown);
        if !limited {
            let read = client.get("/repos/a/b", &[]).await.unwrap_err();
            assert_eq!(read.to_string(), shown);
            // A secret that was refused is not sent again.
            let sent = if shown.contains("refuses the secret") { 1 } else { 2 };
            assert_eq!(server.lines(), ["PATCH /repos/a/b", "GET /repos/a/b"][..sent]);
        }
    }
}

#[tokio::test]
async fn a_limit_holds_back_whoever_uses_the_credential() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|_, before| match before {
        0 => no(403, "You have exceeded a secondary rate limit"),
        _ => ok(json!([])),
    });
    let client = server.client(&folder);
    let at = |index: usize| server.asked.lock().unwrap()[index].at;
    let error = client.write(Write::Post, "/repos/a/b/issues", &json!({})).await.unwrap_err();
    assert!(matches!(error, GitHubError::RateLimited { after } if after == Duration::from_secs(60)), "{error:?}");
    client.get("/repos/a/b", &[]).await.unwrap();
    assert_eq!(at(1).duration_since(at(0)).as_secs(), 60, "the read waits for the write's limit");

    let reset = ("x-ratelimit-reset", "1795162500".to_owned()); // a quarter of an hour later
    let none = [("x-ratelimit-remaining", "0".to_owned()), reset, ("date", "Fri, 20 Nov 2026 08:00:00 GMT".into())];
    let server = Server::new(move |_, _| Reply::Json(200, none.to_vec(), json!({})));
    let client = server.client(&folder);
    client.get("/last", &[]).await.unwrap();
    for _ in 0..3 {
        let error = client.get("/more", &[]).await.unwrap_err();
        assert!(matches!(error, GitHubError::RateLimited { after } if after.as_secs() == 901), "{error:?}");
        let error = client.write(Write::Post, "/more", &json!({})).await.unwrap_err();
        assert!(matches!(error, GitHubError::RateLimited { .. }), "{error:?}");
    }
    assert_eq!((server.lines(), server.slept()), (vec!["GET /last".to_owned()], Vec::new()), "nothing else was sent");
    server.swift.clock.advance(Duration::from_secs(901));
    client.get("/more", &[]).await.unwrap();
}

#[tokio::test]
async fn writes_that_ring_people_keep_a_second_apart_and_none_overtakes_another() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|_, _| ok(json!({})));
    let client = server.client(&folder);
    let (none, issue, blob) = (json!({"title": "a"}), "/repos/a/b/issues", "/repos/a/b/git/blobs");
    let write = |route| client.write(Write::Post, route, &none);
    let (a, b, c, d) = tokio::join!(write(issue), write(issue), write(blob), write(issue));
    assert!([a, b, c, d].iter().all(Result::is_ok));
    let asked = server.asked.lock().unwrap();
    let of = |route: &str| asked.iter().filter(|a| a.path == route).map(|a| a.at).collect::<Vec<_>>();
    let issues = of(issue);
    assert!(asked.iter().all(|asked| asked.body == none), "what is written arrives as it was given");
    assert_eq!((issues.len(), of(blob).len()), (3, 1));
    assert!(issues.windows(2).all(|two| two[1].duration_since(two[0]).as_secs() >= 1), "{issues:?}");
}

#[tokio::test]
async fn a_secret_is_read_at_each_use_and_a_missing_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|asked, _| match asked.authorization.as_str() {
        "Bearer new" => Reply::Json(200, vec![("x-oauth-scopes", "repo, workflow".into())], json!({"login": "crew"})),
        _ => no(401, "Bad credentials"),
    });
    let client = server.client(&folder);
    assert!(matches!(client.login().await, Err(GitHubError::Credential { .. })));
    std::fs::write(folder.path().join("token"), "new").unwrap();
    assert_eq!(client.login().await.unwrap(), "crew");
    assert_eq!(client.login().await.unwrap(), "crew");
    assert_eq!(server.lines(), ["GET /user"; 2], "the login is asked for once");
    assert_eq!(client.rights().await.unwrap(), ["repo", "workflow"]);
    assert_eq!(client.token().await.unwrap(), Secret::new("new"));
    std::fs::remove_file(folder.path().join("token")).unwrap();
    assert!(matches!(client.get("/x", &[]).await, Err(GitHubError::Missing { .. })));
    let none = Outside::none(Env::system());
    assert_eq!(GitHub::of(&none).unwrap_err().to_string(), "GitHub is not configured");
}

#[tokio::test]
async fn pages_are_followed_to_the_end_and_never_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let evil = "<https://evil.example/steal?page=2>; rel=\"next\", <https://x/?page=9>; rel=\"last\"";
    let server = Server::new(move |asked, _| match asked.path.as_str() {
        path if path.ends_with("?page=2") => ok(json!([{"n": 3}])),
        path if path.starts_with("/endless") => {
            let next = format!("<http://h{}0>; rel=\"next\"", path);
            Reply::Json(200, vec![("link", next)], json!([1]))
        }
        path if path.starts_with("/checks") => ok(json!({"total_count": 1, "check_runs": [{"n": 1}]})),
        path if path.starts_with("/odd") => ok(json!("no list")),
        _ => Reply::Json(200, vec![("link", evil.into())], json!([{"n": 1}, {"n": 2}])),
    });
    let client = server.client(&folder);
    assert_eq!(client.list("/all", &[], 1000).await.unwrap().len(), 3);
    assert_eq!(server.lines(), ["GET /all?per_page=100", "GET /all?page=2"]);
    assert_eq!(client.list("/all", &[], 2).await.unwrap(), [json!({"n": 1}), json!({"n": 2})]);
    assert_eq!(client.list("/checks", &[], 10).await.unwrap(), [json!({"n": 1})]);
    assert_eq!(client.list("/endless", &[], 100_000).await.unwrap().len(), MOST_PAGES);
    assert!(client.list("/odd", &[], 10).await.is_err());
}

#[tokio::test]
async fn a_repository_is_asked_for_once_in_ten_minutes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|_, _| {
        ok(json!({"full_name": "acme/api", "private": true, "visibility": "internal", "default_branch": "main"}))
    });
    let client = server.client(&folder);
    for _ in 0..3 {
        let facts = client.repository("acme/api").await.unwrap();
        assert_eq!((facts.visibility, facts.default_branch.as_str()), (Visibility::Internal, "main"));
    }
    server.swift.clock.advance(KEPT);
    client.repository("acme/api").await.unwrap();
    assert_eq!(server.lines(), ["GET /repos/acme/api"; 2]);
    for bad in ["acme", "../x", "a/..", "a/b/c", "a b/c", "acme/", "/", "a/b?x"] {
        assert!(matches!(client.repository(bad).await, Err(GitHubError::Missing { .. })), "{bad}");
    }
    assert_eq!(segment("feature/ä b"), "feature%2F%C3%A4%20b");
}

#[tokio::test]
async fn what_takes_too_long_or_is_too_large_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(|asked, _| match asked.path.as_str() {
        "/slow" => Reply::Never,
        _ => Reply::Text(200, format!("[{}1]", "1,".repeat(600))),
    });
    let file = folder.path().join("token");
    std::fs::write(&file, "t").unwrap();
    let outside = server.outside(with_secret("token", file));
    let token = outside.services.github.as_ref().unwrap().secret("token").unwrap().clone();
    let wire = Wire::new(Url::parse(&server.address).unwrap()).bounded(Duration::from_millis(300), 1000);
    let client = GitHub::over(outside.env.clone(), Credentials::of(&outside.shared), wire, Credential::Token(token));
    for route in ["/slow", "/large"] {
        let error = client.write(Write::Post, route, &json!({})).await.unwrap_err();
        assert!(matches!(error, GitHubError::Ambiguous { .. }), "{error:?}");
    }
    // A port where nobody listens.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = Url::parse(&format!("http://{}", closed.local_addr().unwrap())).unwrap();
    drop(closed);
    let token = outside.services.github.as_ref().unwrap().secret("token").unwrap().clone();
    let client = GitHub::over(
        outside.env.clone(),
        Credentials::of(&outside.shared),
        Wire::new(nobody),
        Credential::Token(token),
    );
    let error = client.write(Write::Post, "/x", &json!({})).await.unwrap_err();
    assert!(matches!(error, GitHubError::Unavailable { .. }), "nothing was sent: {error:?}");
}

/// Made for this test by `openssl genrsa -traditional 2048`, and the same by `openssl pkcs8 -topk8 -nocrypt`.
const PKCS1: &str = include_str!("app-pkcs1.pem");
const PKCS8: &str = include_str!("app-pkcs8.pem");

fn app(file: PathBuf) -> Service {
    let mut service = with_secret("app.key", file);
    service.settings.extend([("app.id".into(), "12".into()), ("app.installation".into(), "34".into())]);
    service
}

#[tokio::test]
async fn an_app_signs_with_its_key_and_shares_one_token_until_it_nears_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.pem");
    for pem in [PKCS1, PKCS8] {
        std::fs::write(&file, pem).unwrap();
        let server = Server::new(|asked, before| match asked.path.as_str() {
            "/app/installations/34/access_tokens" => {
                let until = asked.at + jiff::Span::new().hours(1);
                Reply::Json(201, Vec::new(), json!({"token": format!("ghs_{before}"), "expires_at": until.to_string()}))
            }
            "/app" => ok(json!({"slug": "night-crew"})),
            "/users/night-crew%5Bbot%5D" => ok(json!({"id": 77})),
            "/app/installations/34" => ok(json!({"permissions": {"pull_requests": "write", "contents": "write"}})),
            _ => ok(json!({})),
        });
        let client = GitHub::of(&server.outside(app(file.clone()))).unwrap();
        let none = json!({});
        let (a, b, c) =
            tokio::join!(client.get("/a", &[]), client.get("/b", &[]), client.write(Write::Post, "/c", &none));
        assert!(a.is_ok() && b.is_ok() && c.is_ok());
        let minted = |server: &Server| server.lines().iter().filter(|l| l.starts_with("POST /app/")).count();
        assert_eq!(minted(&server), 1, "all share one token");
        {
            let asked = server.asked.lock().unwrap();
            let jwt = asked[0].authorization.strip_prefix("Bearer ").unwrap();
            let parts: Vec<&str> = jwt.split('.').collect();
            let claims = crate::base::base64::decoded(parts[1]).unwrap();
            let claims: Value = serde_json::from_slice(&claims).unwrap();
            let now = T0.parse::<Timestamp>().unwrap().as_second();
            assert_eq!(claims, json!({"iat": now - 60, "exp": now + 480, "iss": "12"}));
            let key = rustls::pki_types::pem::PemObject::from_pem_slice(PKCS8.as_bytes()).unwrap();
            let rustls::pki_types::PrivateKeyDer::Pkcs8(key) = key else { panic!("no PKCS#8") };
            let pair = ring::rsa::KeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap();
            let public = ring::signature::UnparsedPublicKey::new(
                &ring::signature::RSA_PKCS1_2048_8192_SHA256,
                pair.public().as_ref(),
            );
            let signature = crate::base::base64::decoded(parts[2]).unwrap();
            public.verify(format!("{}.{}", parts[0], parts[1]).as_bytes(), &signature).unwrap();
            assert!(asked[1..].iter().all(|asked| asked.authorization == "Bearer ghs_0"));
        }
        server.swift.clock.advance(Duration::from_secs(51 * 60));
        client.get("/a", &[]).await.unwrap();
        assert_eq!(minted(&server), 1);
        client.token().await.unwrap();
        assert_eq!(minted(&server), 2, "git needs ten minutes");
        server.swift.clock.advance(Duration::from_secs(55 * 60));
        client.get("/a", &[]).await.unwrap();
        assert_eq!(minted(&server), 3);
        assert_eq!(client.login().await.unwrap(), "night-crew[bot]");
        let email = client.identity().await.unwrap().email();
        assert_eq!(email, "77+night-crew[bot]@users.noreply.github.com");
        assert_eq!(client.rights().await.unwrap(), ["contents: write", "pull_requests: write"]);
    }
    std::fs::write(&file, "-----BEGIN NONSENSE-----").unwrap();
    let server = Server::new(|_, _| no(404, "Not Found"));
    let client = GitHub::of(&server.outside(app(file.clone()))).unwrap();
    assert!(matches!(client.get("/a", &[]).await, Err(GitHubError::Missing { .. })));
    assert!(server.lines().is_empty());
    std::fs::write(&file, PKCS8).unwrap();
    let error = client.get("/a", &[]).await.unwrap_err().to_string();
    assert_eq!(error, "GitHub knows no installation 34 of the App 12");
}

#[tokio::test]
async fn a_revoked_token_of_an_installation_is_replaced_and_a_refused_key_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.pem");
    std::fs::write(&file, PKCS8).unwrap();
    let server = Server::new(|asked, before| match (asked.path.as_str(), asked.authorization.as_str()) {
        ("/app/installations/34/access_tokens", _) => {
            let until = asked.at + jiff::Span::new().hours(1);
            Reply::Json(201, Vec::new(), json!({"token": format!("ghs_{before}"), "expires_at": until.to_string()}))
        }
        (_, "Bearer ghs_0") => no(401, "Bad credentials"),
        _ => ok(json!({})),
    });
    let client = GitHub::of(&server.outside(app(file.clone()))).unwrap();
    let error = client.write(Write::Post, "/x", &json!({})).await.unwrap_err();
    assert!(matches!(error, GitHubError::Unavailable { .. }), "{error:?}");
    client.write(Write::Post, "/x", &json!({})).await.unwrap();
    let minted = "POST /app/installations/34/access_tokens";
    assert_eq!(server.lines(), [minted, "POST /x", minted, "POST /x"]);

    let server = Server::new(|_, _| no(401, "A JSON web token could not be decoded"));
    let client = GitHub::of(&server.outside(app(file))).unwrap();
    let error = client.get("/x", &[]).await.unwrap_err();
    assert!(matches!(&error, GitHubError::Credential { secret, .. } if secret == "GITHUB"), "{error:?}");
    assert_eq!(server.lines(), [minted]);
}
