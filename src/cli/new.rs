//! `nightcrew new NAME --from TEMPLATE`: one more pipeline.

use anyhow::Context as _;

use super::args::NewArgs;
use super::session::Session;
use super::{Exit, Trouble, init, templates};

pub fn run(session: &Session, args: &NewArgs) -> anyhow::Result<Exit> {
    let Some(template) = templates::find(&args.from) else {
        let known: Vec<_> = templates::ALL.iter().map(|template| template.name).collect();
        let trouble = Trouble::new(Exit::Usage, format!("there is no template `{}`", args.from));
        return Err(trouble.help(format!("one of: {}", known.join(", "))).into());
    };
    let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !args.name.starts_with(|c: char| c.is_ascii_lowercase())
        || !args.name.chars().all(kebab)
        || args.name.ends_with('-')
    {
        let trouble = Trouble::new(Exit::Usage, format!("`{}` is no name for a pipeline", args.name));
        return Err(trouble.help("lower-case letters, digits and `-`, beginning with a letter").into());
    }
    let folder = &session.places.pipelines;
    let file = folder.join(format!("{}.yaml", args.name));
    if file.exists() {
        return Err(
            Trouble::new(Exit::No, format!("`{}` is there already; nothing was written", file.display())).into()
        );
    }
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let text = templates::with_line(template.text, "name", &format!("name: {}", args.name));
    for (path, text) in template.refers_to {
        // What another pipeline uses already is shared, not replaced.
        if !folder.join(path).exists() {
            init::write(&folder.join(path), text)?;
        }
    }
    init::write(&file, &text)?;
    session.ui.data(format!("wrote {}", file.display()))?;
    session.ui.say(format!("next: edit it, then `nightcrew validate` and `nightcrew plan {}`", args.name));
    Ok(Exit::Done)
}
