//! Services of an environment: started before a command, inside of its sandbox, and ended with it.
//!
//! A small shell script is put in front of the command. Commands and names reach it as arguments, so nothing is quoted. Whether the
//! services came up is told by a file in the results folder. A command can forge that, and gains nothing: its run is then no
//! answer at all.

use crate::domain::definition::ServiceCommand;

/// The file that names the service that did not come up, in the results folder.
pub(super) const FAILED: &str = "services-failed";

/// `$1` the results folder, `$2` the command, then name, command and readiness of each service.
const SCRIPT: &str = r#"results=$1; command=$2; shift 2
while [ $# -ge 3 ]; do
  name=$1; run=$2; ready=$3; shift 3
  /bin/sh -c "$run" >"$results/service-$name.log" 2>&1 </dev/null &
  pid=$!
  [ -n "$ready" ] || continue
  tries=0
  until /bin/sh -c "$ready" >/dev/null 2>&1 </dev/null; do
    tries=$((tries + 1))
    failed=
    if [ -n "$pid" ] && ! kill -0 $pid 2>/dev/null; then
      # One that has put itself into the background ends well; one that ends badly will not get ready.
      if wait $pid; then pid=; else failed=1; fi
    fi
    if [ -n "$failed" ] || [ $tries -gt 600 ]; then
      echo "$name" >"$results/services-failed"
      tail -n 20 "$results/service-$name.log" >&2
      exit 97
    fi
    sleep 0.1
  done
done
exec /bin/sh -c "$command"
"#;

/// The words that start `services` and then the command. `results` is the results folder as the command sees it.
pub(super) fn words(results: &str, command: &str, services: &[(String, ServiceCommand)]) -> Vec<String> {
    let mut words: Vec<String> =
        ["/bin/sh", "-c", SCRIPT, "sh", results, command].iter().map(|word| (*word).to_owned()).collect();
    for (name, service) in services {
        // A name is a key of the YAML, and becomes part of a file's name.
        let name = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        words.extend([name, service.run.clone(), service.ready.clone().unwrap_or_default()]);
    }
    words
}
