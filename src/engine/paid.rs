//! Work in sandboxes that are billed by the second: the worst case is granted before, the time that it took is booked after.
//!
//! A command whose answer was lost in a crash stays charged as granted, as a model call does; it is repeated with a grant of its own.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::base::money::UsdMicros;
use crate::config::settings::SandboxPrice;
use crate::domain::entry::EntryKind;
use crate::domain::money::{GrantRequest, Payee, Settlement};
use crate::domain::run::Failure;
use crate::ports::durable::Stop;
use crate::ports::sandbox::{Billed, Job, Sandbox};

use super::embedded::{journal_broken, raw};
use super::executor::{At, Executor, Halt};

/// What making a sandbox and bringing the code into it may take beside the command itself.
const AROUND: Duration = Duration::from_secs(120);

/// A reservation.
pub(super) struct Paid {
    intended: i64,
    granted: UsdMicros,
    price: SandboxPrice,
    billed: Billed,
    begun: Instant,
}

impl Executor {
    /// Reserves what at most `commands` commands of at most `wall` each can cost. `None`: the sandbox costs nothing.
    pub(super) async fn pay_for(
        &self,
        at: &At,
        sandbox: &dyn Sandbox,
        job: &Job,
        (commands, wall): (usize, Duration),
        halt: &Halt,
    ) -> Result<Option<Paid>, Stop> {
        let Some(billed) = sandbox.billed(&job.environment) else { return Ok(None) };
        let Some(price) = self.bound.prices.sandboxes.get(&billed.provider).copied() else {
            let message = format!("sandboxes of `{}` have no price, so none is used", billed.provider);
            let help =
                format!("add to prices.yaml: sandboxes: {{{}: {{vcpu_second: …, gib_second: …}}}}", billed.provider);
            return Err(Stop::Blocked(Failure::new("E-PRICE", message).help(help)));
        };
        let most = wall.saturating_mul(u32::try_from(commands).unwrap_or(u32::MAX)).saturating_add(AROUND);
        let worst = price.cost(billed.vcpus, billed.memory_mb, most);
        let grant = GrantRequest {
            input: worst,
            output: UsdMicros::ZERO,
            least_output: UsdMicros::ZERO,
            payee: Payee::Sandbox,
            model: billed.provider.clone(),
            from_report_slice: false,
            counts_turn: false,
            items: at.items.clone(),
        };
        let payload = json!({
            "kind": "sandbox", "provider": billed.provider, "vcpus": billed.vcpus, "memory_mb": billed.memory_mb,
            "most_s": most.as_secs(),
        });
        let what = format!("{} s of a sandbox of {}", most.as_secs(), billed.provider);
        let (intended, granted, _) = self.reserve(at, &payload, &grant, &what, halt).await?;
        Ok(Some(Paid { intended, granted, price, billed, begun: Instant::now() }))
    }

    /// Books what it came to: as long as it took, or `billed_ms` if that is longer.
    pub(super) async fn settle_paid(&self, at: &At, paid: Option<Paid>, billed_ms: u64) -> Result<(), Stop> {
        let Some(paid) = paid else { return Ok(()) };
        let lasted = paid.begun.elapsed().max(Duration::from_millis(billed_ms));
        let cost = paid.price.cost(paid.billed.vcpus, paid.billed.memory_mb, lasted);
        if cost > paid.granted {
            tracing::error!(run = %at.run, path = at.path, %cost, granted = %paid.granted,
                "a sandbox lived longer than the worst case that was granted");
        }
        let millis = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
        let note =
            json!({"note": "sandbox_billed", "provider": paid.billed.provider, "ms": millis, "usd_micros": cost.0});
        let mut entry = self.entry(at, EntryKind::Note, raw(&note));
        entry.path = format!("{}/billed-{}", at.path, at.attempt);
        let settlement = Settlement { cost, millis, ..Settlement::default() };
        self.journal.settle(entry, paid.intended, Some(settlement)).await.map_err(journal_broken)?;
        Ok(())
    }
}
