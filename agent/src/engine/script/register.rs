//! Registration's part: golden samples of a version with a script, from what an operator wrote to what devices prove.

use muster_proto::manifest::{Hook, Sample, SampleSet, ScriptedSample};

use super::{Error, Scored};
use crate::engine::json::GivenSample;

impl Error {
    fn at(self, sample: &str) -> Self {
        Error::Sample { sample: sample.to_owned(), source: Box::new(self) }
    }
}

/// Makes the inputs of the samples that were given as a request.
pub fn with_inputs(scored: &Scored, given: Vec<GivenSample>) -> Result<Vec<GivenSample>, Error> {
    let with_inputs = |mut sample: GivenSample| {
        let Some(request) = &sample.request else { return Ok(sample) };
        let Some(script) = scored.script.filter(|script| script.has(Hook::Preprocess)) else {
            let text = "it has a `request`, and there is no script with `preprocess` that would make inputs of it";
            return Err(Error::Invalid(text.into()).at(&sample.name));
        };
        if sample.inputs.is_empty() {
            let made = script.preprocess(request.as_bytes(), &scored.wanted(), &scored.patience());
            sample.inputs = made.map_err(|error| error.at(&sample.name))?;
        }
        Ok(sample)
    };
    given.into_iter().map(with_inputs).collect()
}

/// The file of samples: `golden` with the requests and answers of `given`, and answers of the script where none were.
pub fn record(scored: &Scored, given: &[GivenSample], golden: Vec<Sample>) -> Result<SampleSet, Error> {
    let Some(script) = scored.script else {
        return match given.iter().find(|sample| sample.answer.is_some()) {
            Some(sample) => Err(Error::Invalid("it has an `answer`, and there is no script".into()).at(&sample.name)),
            None => Ok(SampleSet::V1(golden)),
        };
    };
    if script.has(Hook::Preprocess) && given.iter().all(|sample| sample.request.is_none()) {
        let text =
            "no sample has a `request`, so no device could prove what `preprocess` makes of one: add a sample with one";
        return Err(Error::Invalid(text.into()));
    }
    let scripted = |sample: Sample| {
        let given = given.iter().find(|given| given.name == sample.name);
        let request = given.and_then(|given| given.request.clone());
        let answer = match given.and_then(|given| given.answer.clone()) {
            Some(_) if !script.has(Hook::Postprocess) => {
                let text = "it has an `answer`, and the script exports no `postprocess` that would make it";
                return Err(Error::Invalid(text.into()).at(&sample.name));
            }
            None if script.has(Hook::Postprocess) => {
                let made = script.postprocess(&sample.outputs, scored.transforms, &scored.patience());
                let made = made.map_err(|error| error.at(&sample.name))?;
                // What is no UTF-8 is no JSON, which it was checked to be.
                Some(String::from_utf8_lossy(&made).into_owned())
            }
            given => given,
        };
        Ok(ScriptedSample { sample, request, answer })
    };
    golden.into_iter().map(scripted).collect::<Result<_, _>>().map(SampleSet::V2)
}
