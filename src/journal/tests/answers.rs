//! Questions to people, and who may still answer them.

use super::*;
use crate::domain::report::{Question, Report};

fn question(hash: &str) -> Value {
    let question = Question {
        path: "gate/approve".into(),
        signal: "approve".into(),
        ask: "May I?".into(),
        expires_at: Some("2026-11-20T13:00:00Z".parse().unwrap()),
        on_expiry: "no".into(),
        hash: hash.into(),
        ..Question::default()
    };
    json!({"kind": "deliver", "report": Report { question: Some(question), ..Report::default() }})
}

fn answer(run: &RunId, approved: bool, by: &str) -> Answer {
    Answer {
        run: run.clone(),
        path: "gate/approve".into(),
        name: "approve".into(),
        delivered_at: "gate/ask".into(),
        hash: "h1".into(),
        value: json!({"approved": approved}),
        by: by.into(),
    }
}

fn before(approved: bool, by: &str) -> Answered {
    Answered::Before(SignalValue { value: json!({"approved": approved}), by: by.into() })
}

async fn ask(journal: &Journal, id: &str, hash: &str) -> RunId {
    let run = begin_plain(journal, id).await;
    journal.intend(entry(&run, EntryKind::ActivityIntended, "gate/ask", question(hash)), None).await.unwrap();
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_once_by_whoever_is_first() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = ask(&journal, "01JDAAAAAAAAAAAAAAAAAAAAAA", "h1").await;
    let both = [answer(&run, true, "ann"), answer(&run, false, "bob"), answer(&run, true, "ann")];
    let answered = futures_util::future::join_all(both.map(|answer| journal.answer(answer))).await;
    let answered: Vec<Answered> = answered.into_iter().map(Result::unwrap).collect();
    let firsts = answered.iter().filter(|answered| **answered == Answered::Now { ask: "May I?".into() }).count();
    assert_eq!(firsts, 1, "{answered:?}");
    let taken = journal.take_signal(&run, "gate/approve", "approve", "gate/approve").await.unwrap().unwrap();
    assert_eq!(journal.take_signal(&run, "gate/approve", "approve", "v2").await.unwrap(), None, "nothing else waits");
    // Also when the run has taken it, and when it is over.
    let late = before(taken.value["approved"] == true, &taken.by);
    assert_eq!(journal.answer(answer(&run, false, "eve")).await.unwrap(), late);
    journal.finish_run(&run, finish(Outcome::Reported)).await.unwrap();
    assert_eq!(journal.answer(answer(&run, false, "eve")).await.unwrap(), late);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_question_that_was_put_is_answered_and_only_in_time() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = ask(&journal, "01JDAAAAAAAAAAAAAAAAAAAAAA", "h2").await;
    let nothing = |change: &dyn Fn(&mut Answer)| {
        let mut forged = Answer { hash: "h2".into(), ..answer(&run, true, "eve") };
        change(&mut forged);
        journal.answer(forged)
    };
    assert_eq!(nothing(&|a| a.hash = "h1".into()).await.unwrap(), Answered::NotAsked);
    assert_eq!(nothing(&|a| a.path = "other/approve".into()).await.unwrap(), Answered::NotAsked);
    assert_eq!(nothing(&|a| a.delivered_at = "other/ask".into()).await.unwrap(), Answered::NotAsked);
    let unknown = RunId("01JDZZZZZZZZZZZZZZZZZZZZZZ".into());
    assert!(matches!(nothing(&|a| a.run = unknown.clone()).await, Err(Error::NoRun(_))));
    bench.clock.advance(std::time::Duration::from_secs(3_600));
    assert_eq!(nothing(&|_| ()).await.unwrap(), Answered::Expired { then: "no".into() });
    journal.append(vec![value(&run, "gate/approve", Value::Null)]).await.unwrap();
    assert_eq!(nothing(&|_| ()).await.unwrap(), Answered::Expired { then: "no".into() });
    assert_eq!(journal.take_signal(&run, "gate/approve", "approve", "v").await.unwrap(), None);

    let ended = ask(&journal, "01JDBBBBBBBBBBBBBBBBBBBBBB", "h1").await;
    journal.finish_run(&ended, finish(Outcome::Cancelled)).await.unwrap();
    assert!(matches!(journal.answer(answer(&ended, true, "ann")).await, Err(Error::Ended { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_press_resumes_a_run_once_however_often_it_arrives() {
    let bench = Bench::new();
    let journal = bench.open();
    let run = begin_plain(&journal, "01JDAAAAAAAAAAAAAAAAAAAAAA").await;
    for (key, done) in [("a", true), ("a", false), ("b", true), ("a", false)] {
        journal.finish_run(&run, finish(Outcome::Capped)).await.unwrap();
        assert_eq!(journal.resume_run_once(&run, usd(500), "ann", key).await.unwrap(), done, "{key}");
        if !done {
            // Still ended: only so that the next round can end it.
            journal.resume_run(&run, UsdMicros::ZERO, "cli").await.unwrap();
        }
    }
    assert_eq!(journal.reader().run(run.as_str()).unwrap().unwrap().added, usd(1_000));
    journal.overheard(&run, "", "refused", json!({"why": "not on the list"}), "slack:U1").await.unwrap();
    assert_eq!(journal.take_signal(&run, "", "refused", "v").await.unwrap(), None, "nobody waits for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_remembered() {
    let bench = Bench::new();
    let journal = bench.open();
    assert!(!journal.reader().was_delivered("slack", "a").unwrap());
    assert!(journal.note_delivery("slack", "a").await.unwrap());
    assert!(!journal.note_delivery("slack", "a").await.unwrap());
    assert!(
        journal.reader().was_delivered("slack", "a").unwrap()
            && !journal.reader().was_delivered("github", "a").unwrap()
    );
}
