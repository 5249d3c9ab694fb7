//! Subscriptions to the bus, opened with the first viewer of their events and closed with the last.
//!
//! Bound: [`Hub::MAX_VIEWERS`] viewers, each with a [`ViewerQueue`]; 1,024 messages a subscription
//! wait for a source. Loss: events that find a viewer's queue full, which the viewer is told.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, task::AtomicWaker};
use parking_lot::{Mutex, RwLock};
use picket_proto::{Shard, subject};
use picket_runtime::{Bus, clock};
use picket_store::{Store, settings::SharedSettings};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::warn;

use crate::access::limits::LimitKey;

use super::{
    event::{EventKind, EventReader, LiveEvent},
    filter::Filter,
    metrics::LiveMetrics,
    queue::ViewerQueue,
    tags::{TagIndex, follow_tags},
};

/// A subscription of the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// All results.
    Results,
    /// Single results of the sites of a shard.
    Shard(Shard),
    /// Bundles of results, of all shards.
    Bundles,
    /// Incidents, warnings and regions.
    Events,
}

impl Source {
    fn subject(self) -> String {
        match self {
            Self::Results => subject::RESULT_SUBJECTS.to_owned(),
            Self::Shard(shard) => subject::shard_results(shard),
            Self::Bundles => subject::BUNDLE_SUBJECTS.to_owned(),
            Self::Events => subject::EVENT_SUBJECTS.to_owned(),
        }
    }

    /// The sources of a viewer. The results of a single site need one shard.
    pub(crate) fn select(filter: &Filter, shard: Option<Shard>) -> Vec<Self> {
        let mut sources = match (filter.admits_kind(EventKind::Result), shard) {
            (true, Some(shard)) => vec![Self::Shard(shard), Self::Bundles],
            (true, None) => vec![Self::Results],
            (false, _) => Vec::new(),
        };
        if EventKind::ALL_KINDS.iter().any(|kind| *kind != EventKind::Result && filter.admits_kind(*kind)) {
            sources.push(Self::Events);
        }
        sources
    }
}

/// A viewer of live events.
#[derive(Debug)]
struct Viewer {
    filter: Filter,
    queue: Mutex<ViewerQueue>,
    news: AtomicWaker,
    /// True once a source has ended without being closed.
    is_ended: AtomicBool,
}

/// Viewers of a source.
#[derive(Default)]
struct ViewerList {
    viewers: Vec<Arc<Viewer>>,
    /// True once the source has ended.
    is_ended: bool,
}

struct OpenSource {
    list: Arc<Mutex<ViewerList>>,
    /// True once the server has the subscription.
    is_open: watch::Receiver<bool>,
    /// Ends the subscription when dropped.
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct HubState {
    sources: HashMap<Source, OpenSource>,
    viewers: usize,
    viewers_by_holder: HashMap<LimitKey, usize>,
    viewers_with_tags: usize,
    /// Follows the tags of sites while a viewer needs them.
    tags_task: Option<AbortOnDropHandle<()>>,
}

/// See the module documentation.
pub(crate) struct Hub {
    bus: Bus,
    store: Store,
    settings: SharedSettings,
    metrics: LiveMetrics,
    tags: Arc<RwLock<TagIndex>>,
    state: Mutex<HubState>,
    /// Cancelled at the start of a drain: streams end.
    stopping: CancellationToken,
}

/// Reasons why a viewer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ViewerRefusal {
    ProcessFull,
    HolderFull,
    Stopping,
}

impl Hub {
    /// Maximum viewers of a process.
    pub(crate) const MAX_VIEWERS: usize = 2_000;
    /// Maximum viewers of one token or session.
    pub(crate) const MAX_VIEWERS_OF_HOLDER: usize = 8;

    pub(crate) fn new(
        bus: Bus,
        store: Store,
        settings: SharedSettings,
        metrics: LiveMetrics,
        stopping: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            bus,
            store,
            settings,
            metrics,
            tags: Arc::default(),
            state: Mutex::default(),
            stopping,
        })
    }

    pub(crate) fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    pub(crate) fn watch_connection(&self) -> watch::Receiver<bool> {
        self.bus.watch_connection()
    }

    /// Adds a viewer. `holder` is whom the limit of streams counts; without one, only the limit of
    /// the process counts.
    pub(crate) fn add_viewer(
        self: &Arc<Self>,
        filter: Filter,
        sources: Vec<Source>,
        holder: Option<LimitKey>,
    ) -> Result<ViewerHandle, ViewerRefusal> {
        let mut state = self.state.lock();
        if self.stopping.is_cancelled() {
            return Err(ViewerRefusal::Stopping);
        }
        if state.viewers >= Self::MAX_VIEWERS {
            return Err(ViewerRefusal::ProcessFull);
        }
        if let Some(holder) = &holder {
            let open = state.viewers_by_holder.entry(holder.clone()).or_default();
            if *open >= Self::MAX_VIEWERS_OF_HOLDER {
                return Err(ViewerRefusal::HolderFull);
            }
            *open += 1;
        }
        state.viewers += 1;
        self.metrics.streams.inc();
        if filter.needs_tags() {
            state.viewers_with_tags += 1;
            state.tags_task.get_or_insert_with(|| {
                AbortOnDropHandle::new(tokio::spawn(follow_tags(self.store.clone(), self.tags.clone())))
            });
        }
        let viewer = Arc::new(Viewer {
            filter,
            queue: Mutex::default(),
            news: AtomicWaker::new(),
            is_ended: AtomicBool::new(false),
        });
        let mut opening = Vec::with_capacity(sources.len());
        for source in &sources {
            let open = state.sources.entry(*source).or_insert_with(|| self.open_source(*source));
            if open.list.lock().is_ended {
                *open = self.open_source(*source);
            }
            open.list.lock().viewers.push(Arc::clone(&viewer));
            opening.push(open.is_open.clone());
        }
        Ok(ViewerHandle { hub: Arc::clone(self), viewer, sources, opening, holder })
    }

    fn open_source(self: &Arc<Self>, source: Source) -> OpenSource {
        let list = Arc::<Mutex<ViewerList>>::default();
        let (opened, is_open) = watch::channel(false);
        let reader = SourceReader {
            hub: Arc::clone(self),
            list: Arc::clone(&list),
            events: Vec::new(),
            reader: EventReader::new(self.settings.current().installation_id),
        };
        let guard = SourceGuard(Arc::clone(&list));
        let task = tokio::spawn(async move {
            reader.follow_subject(source.subject(), opened).await;
            drop(guard);
        });
        OpenSource { list, is_open, _task: AbortOnDropHandle::new(task) }
    }

    fn remove_viewer(&self, handle: &ViewerHandle) {
        let mut state = self.state.lock();
        for source in &handle.sources {
            let Some(open) = state.sources.get(source) else { continue };
            let is_last = {
                let viewers = &mut open.list.lock().viewers;
                viewers.retain(|viewer| !Arc::ptr_eq(viewer, &handle.viewer));
                viewers.is_empty()
            };
            if is_last {
                state.sources.remove(source);
            }
        }
        if let Some(holder) = &handle.holder
            && let Some(open) = state.viewers_by_holder.get_mut(holder)
        {
            *open -= 1;
            if *open == 0 {
                state.viewers_by_holder.remove(holder);
            }
        }
        state.viewers -= 1;
        self.metrics.streams.dec();
        if handle.viewer.filter.needs_tags() {
            state.viewers_with_tags -= 1;
            if state.viewers_with_tags == 0 {
                state.tags_task = None;
                *self.tags.write() = TagIndex::default();
            }
        }
    }
}

/// A viewer's place in the hub, which it leaves when dropped.
pub(crate) struct ViewerHandle {
    hub: Arc<Hub>,
    viewer: Arc<Viewer>,
    sources: Vec<Source>,
    opening: Vec<watch::Receiver<bool>>,
    holder: Option<LimitKey>,
}

impl ViewerHandle {
    /// Waits until the server has the viewer's subscriptions, at most `limit`.
    pub(crate) async fn wait_open(&mut self, limit: Duration) {
        let opening = std::mem::take(&mut self.opening);
        let opened = async {
            for mut is_open in opening {
                let _ = is_open.wait_for(|is_open| *is_open).await;
            }
        };
        // Without NATS the stream begins all the same, and says so.
        let _ = timeout(limit, opened).await;
    }

    /// The next events; `None` if no more will come.
    pub(crate) fn poll_chunk(&self, context: &Context<'_>) -> Poll<Option<Bytes>> {
        // Before the look at the queue, so that no event comes in between.
        self.viewer.news.register(context.waker());
        let chunk = self.viewer.queue.lock().pop_chunk();
        match chunk.is_some() || self.viewer.is_ended.load(Ordering::Acquire) {
            true => Poll::Ready(chunk),
            false => Poll::Pending,
        }
    }
}

impl Drop for ViewerHandle {
    fn drop(&mut self) {
        let hub = Arc::clone(&self.hub);
        hub.remove_viewer(self);
    }
}

/// Ends the streams of a source's viewers if its task ends, which it does by a panic only. The clients
/// return, and the first of them opens the source again.
struct SourceGuard(Arc<Mutex<ViewerList>>);

impl Drop for SourceGuard {
    fn drop(&mut self) {
        let mut list = self.0.lock();
        list.is_ended = true;
        for viewer in &list.viewers {
            viewer.is_ended.store(true, Ordering::Release);
            viewer.news.wake();
        }
    }
}

/// The task of a source: reads messages, and passes their events on to the viewers.
struct SourceReader {
    hub: Arc<Hub>,
    list: Arc<Mutex<ViewerList>>,
    /// Events that wait to be passed on together.
    events: Vec<LiveEvent>,
    reader: EventReader,
}

impl SourceReader {
    /// Number of events that are passed on together, at most; half of what a viewer's queue takes.
    const MAX_EVENTS: usize = ViewerQueue::MAX_EVENTS / 2;
    /// Time between deliveries, at least, while more events wait than are passed on together.
    const MIN_PAUSE: Duration = Duration::from_millis(12);
    const RETRY_INTERVAL: Duration = Duration::from_secs(1);

    async fn follow_subject(mut self, subject: String, opened: watch::Sender<bool>) {
        loop {
            match self.hub.bus.client.subscribe(subject.clone()).await {
                Ok(subscription) => {
                    if self.hub.bus.client.flush().await.is_ok() {
                        opened.send_replace(true);
                    }
                    self.read_messages(subscription).await;
                }
                Err(error) => warn!(%subject, %error, "could not subscribe, retrying"),
            }
            sleep(Self::RETRY_INTERVAL).await;
        }
    }

    /// Reads until the client is closed. Events that come in quick succession are passed on
    /// together, because waking a viewer costs more than an event.
    async fn read_messages(&mut self, mut subscription: async_nats::Subscriber) {
        let (mut delivered_at, mut window) = (Instant::now(), Duration::ZERO);
        loop {
            let is_full = self.events.len() >= Self::MAX_EVENTS;
            // A pause even under load lets viewers read before their queues are full.
            let pause = if is_full { Self::MIN_PAUSE.max(window / 10) } else { window };
            let next_delivery = delivered_at + pause;
            tokio::select! {
                message = subscription.next(), if !is_full => {
                    let Some(message) = message else { return };
                    self.read_message(&message);
                }
                () = sleep_until(next_delivery), if !self.events.is_empty() => {
                    window = self.deliver_events();
                    delivered_at = Instant::now();
                }
            }
        }
    }

    fn read_message(&mut self, message: &async_nats::Message) {
        let is_change_wanted = self.list.lock().viewers.iter().any(|viewer| viewer.filter.is_changes_only);
        let unusable = self.reader.read_message(
            &message.subject,
            &message.payload,
            clock::wall_clock_now(),
            is_change_wanted,
            &mut self.events,
        );
        self.hub.metrics.unusable_messages.inc_by(unusable);
    }

    /// Passes the oldest waiting events on. Returns the time until the next delivery, which grows with the
    /// viewers: a write to one costs some 10 µs, whatever the number of events. An event is on the screen within a
    /// second of the check's end, of which this may use the larger part.
    fn deliver_events(&mut self) -> Duration {
        const MIN_WINDOW: Duration = Duration::from_millis(50);
        const MAX_WINDOW: Duration = Duration::from_millis(600);
        const WINDOW_PER_VIEWER: Duration = Duration::from_micros(600);
        let events: Vec<_> = self.events.drain(..self.events.len().min(Self::MAX_EVENTS)).collect();
        let tags = self.hub.tags.read();
        let has_tag = |site, wanted: &[String]| tags.has_one(site, wanted);
        let viewers = &self.list.lock().viewers;
        let (mut delivered, mut lost) = (0, 0);
        for viewer in viewers.iter() {
            let mut queue = viewer.queue.lock();
            let was_empty = queue.is_empty();
            for event in events.iter().filter(|event| viewer.filter.admits(event, has_tag)) {
                match queue.push(&event.bytes) {
                    true => delivered += 1,
                    false => lost += 1,
                }
            }
            let has_news = was_empty && !queue.is_empty();
            drop(queue);
            if has_news {
                viewer.news.wake();
            }
        }
        self.hub.metrics.events_delivered.inc_by(delivered);
        self.hub.metrics.events_lost.inc_by(lost);
        let count = u32::try_from(viewers.len()).unwrap_or(u32::MAX);
        WINDOW_PER_VIEWER.saturating_mul(count).clamp(MIN_WINDOW, MAX_WINDOW)
    }
}
