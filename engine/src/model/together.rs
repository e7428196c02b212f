//! Texts that are written together: in every round each of them takes the step its decoder asks for, all in one forward.
//! Whoever ends makes room, whoever comes joins the next round; nobody waits for anybody ([`super::batch`] says why no text
//! depends on the others).

use hilda_kernels::{Backend, Train};

use super::generate::GenerateError;
use super::{Batch, Sequence, Weights, embedding};
use crate::decode::{DecodeConfig, Decoder, ForwardRequest, StepEvent, Trajectory};

/// Rows of one forward, unless one text alone has more: enough for products at their best, few enough that a step does
/// not keep a text waiting long.
pub const MOST_ROWS: usize = 1024;

/// A text at work: what decides, and what the device keeps of it.
pub struct Writing<B: Backend> {
    pub decoder: Decoder,
    sequence: Sequence<B>,
}

impl<B: Backend> Writing<B> {
    pub fn new(b: &B, weights: &Weights<B>, decoder: Decoder) -> Self {
        let sequence = Sequence::new(b, weights, decoder.config().length as usize);
        Writing { decoder, sequence }
    }
}

/// What a round did to a text.
#[derive(Debug)]
pub enum Turn {
    Stepped(Box<StepEvent>),
    /// it needed no forward any more
    Ended,
    /// the others went on
    Failed(GenerateError),
}

/// One forward for `texts`, from the first on as many as fit ([`Batch::take`] with [`MOST_ROWS`]): what it did to each of
/// these.
pub fn round<B: Train>(b: &B, batch: &mut Batch<B>, texts: &mut [&mut Writing<B>]) -> Vec<Turn> {
    let requests: Vec<Option<ForwardRequest>> = texts.iter_mut().map(|t| t.decoder.next()).collect();
    let fit = batch.take(requests.iter().flatten(), MOST_ROWS);
    let (mut asked, mut taken) = (Vec::new(), 0);
    for (text, request) in texts.iter_mut().zip(&requests) {
        if let Some(request) = request {
            if asked.len() == fit {
                break;
            }
            asked.push((&mut text.sequence, request));
        }
        taken += 1;
    }
    let weights = batch.weights().clone();
    let mut answers = batch.answer(b, &mut asked).into_iter();
    let turn = |(text, request): (&mut &mut Writing<B>, &Option<ForwardRequest>)| {
        if request.is_none() {
            return Turn::Ended;
        }
        let stats = answers.next().expect("an answer for each request");
        embedding::tell(b, &weights.trunk, &text.sequence, &mut text.decoder);
        let event = stats.map_err(GenerateError::from).and_then(|s| Ok(text.decoder.apply(s)?));
        event.map_or_else(Turn::Failed, |event| Turn::Stepped(Box::new(event)))
    };
    texts.iter_mut().zip(&requests).take(taken).map(turn).collect()
}

/// The texts of `configs`, at most `at_once` of them side by side, each as if it were alone; in the order asked.
pub fn write_all<B: Train>(
    b: &B,
    batch: &mut Batch<B>,
    configs: Vec<DecodeConfig>,
    at_once: usize,
) -> Vec<Result<Trajectory, GenerateError>> {
    let weights = batch.weights().clone();
    let mut written: Vec<Option<Result<Trajectory, GenerateError>>> = configs.iter().map(|_| None).collect();
    let mut waiting = configs.into_iter().enumerate();
    let mut texts: Vec<(usize, Writing<B>)> = Vec::new();
    loop {
        while texts.len() < at_once.max(1)
            && let Some((i, config)) = waiting.next()
        {
            match Decoder::new(config) {
                Ok(decoder) => texts.push((i, Writing::new(b, &weights, decoder))),
                Err(e) => written[i] = Some(Err(e.into())),
            }
        }
        if texts.is_empty() {
            break;
        }
        let turns = round(b, batch, &mut texts.iter_mut().map(|(_, text)| text).collect::<Vec<_>>());
        // whoever had no turn has the next
        let mut later = texts.split_off(turns.len());
        for ((i, text), turn) in texts.into_iter().zip(turns) {
            match turn {
                Turn::Stepped(_) => later.push((i, text)),
                Turn::Ended => written[i] = Some(Ok(text.decoder.trajectory())),
                Turn::Failed(e) => written[i] = Some(Err(e)),
            }
        }
        texts = later;
    }
    written.into_iter().map(|t| t.expect("every text ends or fails")).collect()
}
