//! Gathers letters into batches; a batch leaves when it is full, or when its first letter is due.
//!
//! **Bound**: the puller's credit. **Loss**: what was gathered was never acknowledged, so NATS delivers it again.

use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::{
    credit::{BATCH_BYTES, Credit},
    letter::Letter,
    writer,
};

pub(crate) enum Msg {
    Add(Vec<Letter>),
    /// The first letter of the batch of this number has waited for [`Limits::max_age`].
    Due(u64),
    /// Whatever there is leaves; nothing more comes.
    Flush,
}

#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_len: usize,
    pub(crate) max_bytes: usize,
    pub(crate) max_age: Duration,
}

impl Limits {
    pub(crate) fn new(max_len: u32, max_age: Duration) -> Self {
        Self { max_len: max_len as usize, max_bytes: BATCH_BYTES as usize, max_age }
    }
}

pub(crate) struct Batcher {
    pub(crate) limits: Limits,
    pub(crate) writer: ActorRef<writer::Msg>,
}

impl Actor for Batcher {
    type Msg = Msg;
    type State = Gathering;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<Gathering, ActorProcessingErr> {
        Ok(Gathering::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        gathering: &mut Gathering,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Add(letters) => {
                for letter in letters {
                    if gathering.batch.is_empty() {
                        let number = gathering.number;
                        myself.send_after(self.limits.max_age, move || Msg::Due(number));
                    }
                    self.send(gathering.add(letter, self.limits))?;
                }
                Ok(())
            }
            Msg::Due(number) => self.send(gathering.due(number)),
            Msg::Flush => self.send(gathering.due(gathering.number)),
        }
    }
}

impl Batcher {
    fn send(&self, leaving: Option<Batch>) -> Result<(), ActorProcessingErr> {
        if let Some(batch) = leaving {
            self.writer.cast(writer::Msg::Write(batch)).map_err(|_| "the writer is gone")?;
        }
        Ok(())
    }
}

/// Letters to be written together, and the leave to hold them.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) letters: Vec<Letter>,
    bytes: usize,
    credit: Credit,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    fn add(&mut self, mut letter: Letter) {
        self.bytes += letter.bytes();
        self.credit.merge(std::mem::take(&mut letter.credit));
        self.letters.push(letter);
    }
}

/// The batch being gathered. Its number tells a live `Due` from one that comes too late.
#[derive(Default)]
pub(crate) struct Gathering {
    number: u64,
    batch: Batch,
}

impl Gathering {
    fn add(&mut self, letter: Letter, limits: Limits) -> Option<Batch> {
        self.batch.add(letter);
        let full = self.batch.letters.len() >= limits.max_len || self.batch.bytes >= limits.max_bytes;
        full.then(|| self.take())
    }

    fn due(&mut self, number: u64) -> Option<Batch> {
        (self.number == number && !self.batch.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> Batch {
        self.number += 1;
        std::mem::take(&mut self.batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::letter::tests::letter;

    const LIMITS: Limits = Limits { max_len: 3, max_bytes: 1_000, max_age: Duration::from_millis(250) };

    #[test]
    fn a_batch_leaves_when_it_has_enough_letters_or_bytes() {
        let mut gathering = Gathering::default();

        assert!(gathering.add(letter(10), LIMITS).is_none());
        assert!(gathering.add(letter(10), LIMITS).is_none());
        assert_eq!(gathering.add(letter(10), LIMITS).unwrap().letters.len(), 3);
        assert_eq!(gathering.add(letter(1_000), LIMITS).unwrap().letters.len(), 1);
    }

    #[test]
    fn a_due_of_a_batch_that_has_left_does_nothing() {
        let mut gathering = Gathering::default();
        let number = gathering.number;
        assert!(gathering.due(number).is_none(), "nothing is due while there is nothing");
        gathering.add(letter(1), LIMITS);

        assert_eq!(gathering.due(number).unwrap().letters.len(), 1);
        gathering.add(letter(1), LIMITS);
        assert!(gathering.due(number).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_full_batch_leaves_when_its_first_letter_is_due() {
        let (writer, mut written) = crate::report::tests::inbox().await;
        let (batcher, _) = Batcher::spawn(None, Batcher { limits: LIMITS, writer }, ()).await.unwrap();

        let began = tokio::time::Instant::now();
        batcher.cast(Msg::Add(vec![letter(1), letter(1)])).unwrap();
        let Some(writer::Msg::Write(batch)) = written.recv().await else { panic!("nothing was written") };

        assert_eq!(batch.letters.len(), 2);
        assert_eq!(began.elapsed().as_millis(), LIMITS.max_age.as_millis());
    }
}
