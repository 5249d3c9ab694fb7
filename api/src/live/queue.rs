//! The events that wait for one viewer: bounded, and honest about what it lost.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use serde::Serialize;

use super::event::encode_event;

/// Data of the event `lagged`.
#[derive(Serialize)]
pub(crate) struct Lagged {
    /// Number of lost events; absent if it is not known.
    pub(crate) lost: Option<u64>,
}

impl Lagged {
    pub(crate) fn encode(lost: Option<u64>) -> Bytes {
        encode_event("lagged", None, &Self { lost })
    }
}

/// See the module documentation. A loss stands in the stream where the lost events would be: after
/// it nothing is added until the viewer has been told.
#[derive(Debug, Default)]
pub(crate) struct ViewerQueue {
    events: VecDeque<Bytes>,
    bytes: usize,
    lost: u64,
}

impl ViewerQueue {
    pub(crate) const MAX_EVENTS: usize = 256;
    pub(crate) const MAX_BYTES: usize = 64 << 10;
    /// Size of what is given to a connection at once, but for an event that is larger. A connection
    /// holds up to 16 such pieces that its reader does not take.
    const CHUNK_BYTES: usize = 4 << 10;

    /// Adds an event, unless there is no room. Returns true if it was added.
    pub(crate) fn push(&mut self, event: &Bytes) -> bool {
        let is_full =
            self.events.len() >= Self::MAX_EVENTS || self.bytes.saturating_add(event.len()) > Self::MAX_BYTES;
        if is_full || self.lost > 0 {
            self.lost += 1;
            return false;
        }
        self.bytes += event.len();
        self.events.push_back(event.clone());
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.lost == 0
    }

    /// The next events in one piece; `None` if there is none.
    pub(crate) fn pop_chunk(&mut self) -> Option<Bytes> {
        let first = match self.events.pop_front() {
            Some(first) => first,
            None if self.lost > 0 => return Some(Lagged::encode(Some(std::mem::take(&mut self.lost)))),
            None => return None,
        };
        self.bytes -= first.len();
        let next_fits =
            |next: Option<&Bytes>, size| next.is_some_and(|next| size + next.len() <= Self::CHUNK_BYTES);
        if !next_fits(self.events.front(), first.len()) {
            self.shrink_if_empty();
            return Some(first);
        }
        let mut chunk = BytesMut::with_capacity(Self::CHUNK_BYTES);
        chunk.extend_from_slice(&first);
        while next_fits(self.events.front(), chunk.len()) {
            let Some(next) = self.events.pop_front() else { break };
            self.bytes -= next.len();
            chunk.extend_from_slice(&next);
        }
        self.shrink_if_empty();
        Some(chunk.freeze())
    }

    /// Most viewers have few events; the room for many is not kept.
    fn shrink_if_empty(&mut self) {
        if self.events.is_empty() && self.events.capacity() > 32 {
            self.events = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(queue: &mut ViewerQueue) -> String {
        let chunks = std::iter::from_fn(|| queue.pop_chunk());
        chunks.map(|chunk| String::from_utf8(chunk.to_vec()).unwrap()).collect()
    }

    #[test]
    fn events_come_in_order_and_in_pieces() {
        let mut queue = ViewerQueue::default();
        let events: Vec<String> = (0..100).map(|number| format!("data: {number:100}\n\n")).collect();
        for event in &events {
            assert!(queue.push(&Bytes::from(event.clone())));
        }

        assert!(queue.pop_chunk().unwrap().len() <= ViewerQueue::CHUNK_BYTES);
        assert!(events.concat().ends_with(&drain(&mut queue)));
        assert!(queue.is_empty() && queue.pop_chunk().is_none());
    }

    #[test]
    fn a_full_queue_tells_how_many_it_lost_and_goes_on() {
        let mut queue = ViewerQueue::default();
        for number in 0..300 {
            assert_eq!(queue.push(&Bytes::from(format!("{number};"))), number < 256);
        }
        // Room alone is not enough: the loss has its place in the stream.
        queue.pop_chunk();
        assert!(!queue.push(&Bytes::from_static(b"later;")));

        let rest = drain(&mut queue);
        assert!(rest.ends_with("event: lagged\ndata: {\"lost\":45}\n\n"), "{rest}");
        assert!(queue.push(&Bytes::from_static(b"news")));
        assert_eq!(drain(&mut queue), "news");
    }

    #[test]
    fn large_events_fill_a_queue_by_their_size() {
        let mut queue = ViewerQueue::default();
        let large = Bytes::from(vec![b'x'; 40 << 10]);

        assert!(queue.push(&large) && !queue.push(&large));
        assert_eq!(queue.pop_chunk().unwrap().len(), large.len());
        assert!(drain(&mut queue).contains("\"lost\":1"));
    }

    proptest! {
        #[test]
        fn every_event_is_delivered_once_in_order_or_counted_as_lost(
            steps in prop::collection::vec((0_usize..6_000, any::<bool>()), 1..800),
        ) {
            let (mut queue, mut sent, mut received) = (ViewerQueue::default(), 0_u64, Vec::new());
            for (size, is_push) in steps {
                if is_push {
                    queue.push(&Bytes::from(format!("data: {sent}{}\n\n", " ".repeat(size))));
                    sent += 1;
                } else if let Some(chunk) = queue.pop_chunk() {
                    received.extend_from_slice(&chunk);
                }
                prop_assert!(queue.events.len() <= ViewerQueue::MAX_EVENTS);
                prop_assert!(queue.bytes <= ViewerQueue::MAX_BYTES);
                prop_assert_eq!(queue.bytes, queue.events.iter().map(Bytes::len).sum::<usize>());
            }
            received.extend_from_slice(drain(&mut queue).as_bytes());
            let text = String::from_utf8(received).unwrap();
            let mut expected = 0;
            for event in text.split_terminator("\n\n") {
                match event.strip_prefix("event: lagged\ndata: {\"lost\":") {
                    Some(lost) => expected += lost.trim_end_matches('}').parse::<u64>().unwrap(),
                    None => {
                        let number = event.strip_prefix("data: ").unwrap().trim_end();
                        prop_assert_eq!(number.parse::<u64>().unwrap(), expected);
                        expected += 1;
                    }
                }
            }
            prop_assert_eq!(expected, sent);
        }
    }
}
