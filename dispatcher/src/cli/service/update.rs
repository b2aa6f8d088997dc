//! `muster service update` and `scale`.

use std::path::PathBuf;
use std::time::Duration;

use super::create::{Count, Knobs, register};
use super::{path, text, wait};
use crate::app::{ServiceUpdate, ServiceView};
use crate::cli::{Failure, Session};

pub(super) const EXAMPLES: &str = "\
Examples:
  muster service update digits --model digits:2
  muster service update digits --model digits:2 --canary 10%
  muster service promote digits
  muster service update digits --file digits.onnx
  muster service update digits --queue 50";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The service.
    name: String,
    /// What answers from now on: NAME:VERSION, or NAME for its newest version.
    #[arg(long, value_name = "MODEL[:VERSION]")]
    model: Option<String>,
    /// An ONNX file, or a folder with one, that is registered first: the next version of the model that answers now.
    #[arg(long, short, value_name = "FILE", conflicts_with = "model")]
    file: Option<PathBuf>,
    /// The image that holds the new version, for Kubernetes.
    #[arg(long)]
    image: Option<String>,
    /// Give the new version only this share of the requests at first, e.g. 10%.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    canary: Option<u8>,
    #[command(flatten)]
    knobs: Knobs,
    /// Do not wait until it answers.
    #[arg(long)]
    no_wait: bool,
}

fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    number.parse().ok().filter(|p| (1..=99).contains(p)).ok_or_else(|| format!("{text:?} is not 1% to 99%"))
}

pub(super) fn run(args: Args, session: &Session) -> anyhow::Result<()> {
    let view: ServiceView = session.client.get(&path(&args.name))?.parse()?;
    let mut settings = view.settings;
    let turned = args.knobs.turn(&mut settings);
    let model = match (&args.model, &args.file) {
        (None, Some(file)) => {
            let now = view.revisions.first().map_or(args.name.as_str(), |revision| revision.model.as_str());
            let name = now.rsplit_once(':').map_or(now, |(name, _)| name);
            Some(register(file, name, session)?)
        }
        (named, _) => named.clone(),
    };
    if model.is_none() && (args.image.is_some() || args.canary.is_some()) {
        let what = "--image and --canary are about another version";
        return Err(Failure::usage(what, "name the version by --model or --file").into());
    }
    if model.is_none() && !turned {
        return Err(Failure::usage("nothing would change", "name a version by --model, or a setting").into());
    }
    let change = ServiceUpdate { model, image: args.image, canary: args.canary, settings: turned.then_some(settings) };
    send(&args.name, &change, args.no_wait, session)
}

pub(super) fn scale(name: &str, count: Count, session: &Session) -> anyhow::Result<()> {
    let view: ServiceView = session.client.get(&path(name))?.parse()?;
    let mut settings = view.settings;
    settings.replicas = count.replicas(settings.replicas);
    send(name, &ServiceUpdate { settings: Some(settings), ..ServiceUpdate::default() }, false, session)
}

fn send(name: &str, change: &ServiceUpdate, no_wait: bool, session: &Session) -> anyhow::Result<()> {
    let answer = session.client.patch(&path(name), change)?;
    let view: ServiceView = match no_wait {
        true => answer.parse()?,
        false => wait(name, Duration::from_secs(300), session)?,
    };
    session.out.value(&view, || text::show(&view))?;
    Ok(())
}
