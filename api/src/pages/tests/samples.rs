//! Pages with sample values.

use picket_proto::{Cause, Outcome, Timestamp, Timing};
use picket_store::{routes::SiteReach, sites::SiteVersion};

use super::super::{
    check::CheckPage,
    first_answers::FirstAnswer,
    frame::{Frame, Section, Theme},
    list_page::{Cell, FormField, FormView, ListPage, Tab, TableView},
    moment::MomentBar,
    overview::{FigureItem, IncidentItem, MatrixCell, OverviewPage, RegionRow, TroubleRow},
    parts::{Behind, Figure, Pager, StatusMark, TagLink, TimeMark},
    recipients::RecipientsView,
    site::{SitePage, WarningItem},
    site_certificate::{CertificateItem, CertificateView},
    site_edits::EditItem,
    site_regions::{CheckItem, SiteRegionRow},
    sites::{SiteQuery, SiteRow, SitesPage},
};
use crate::charts::{
    CellState, EditMark, Observed, PhaseColumn, Span, StripCell, WaterfallCheck, draw_phases, draw_strip,
    draw_waterfall,
};
use askama::Template;

/// Text of a site's owner that must be escaped wherever it appears.
pub(super) const HOSTILE: &str = "<script>alert(1)</script>\"'&";

fn frame(section: Section) -> Frame {
    Frame {
        ledger_line: Some("1 check was due".to_owned()),
        user: Some(HOSTILE.to_owned()),
        ..Frame::new(HOSTILE, Some(section), None, Theme::Dark)
    }
}

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn text() -> String {
    HOSTILE.to_owned()
}

fn behind() -> Behind {
    Behind { sql: text(), command: text(), curl: text() }
}

fn strip(letters: &str) -> crate::charts::Chart {
    let cell = |letter| StripCell { state: CellState::from_day_code(letter), label: text(), detail: text() };
    draw_strip("days", &letters.chars().map(cell).collect::<Vec<_>>(), true)
}

fn check_item(status: StatusMark) -> CheckItem {
    CheckItem {
        status,
        due: TimeMark(now()),
        href: "/checks/7/eu-1/2026-11-20T12:00:00.000000Z".to_owned(),
        region: "eu-1".to_owned(),
        kind: "scheduled",
        lateness: "4 ms".to_owned(),
        total: "104 ms".to_owned(),
        http_status: "200".to_owned(),
        message: text(),
    }
}

fn incident() -> IncidentItem {
    IncidentItem {
        id: 3,
        site: text(),
        status: StatusMark::Down,
        opened_at: TimeMark(now()),
        duration: "14 min".to_owned(),
        cause: text(),
    }
}

fn overview_page(is_empty: bool) -> OverviewPage {
    let region = |name: &str| MatrixCell { region: name.to_owned(), mark: Some(StatusMark::Down) };
    OverviewPage {
        frame: frame(Section::Overview),
        headline: "2 sites are not up".to_owned(),
        subline: text(),
        public_url: text(),
        may_write: true,
        figures: if is_empty {
            Vec::new()
        } else {
            vec![FigureItem {
                name: "Down",
                value: "2".to_owned(),
                note: text(),
                href: Some("/sites".to_owned()),
            }]
        },
        trouble: vec![TroubleRow {
            id: 7,
            name: text(),
            status: StatusMark::Down,
            since: Some(TimeMark(now())),
            cause: text(),
            regions: vec![region("eu-1")],
        }],
        more_trouble: Some("3 more".to_owned()),
        regions: vec![RegionRow {
            name: "eu-1".to_owned(),
            status: Some(StatusMark::Silent),
            silent_since: Some(TimeMark(now())),
            schedules: "7".to_owned(),
        }],
        incidents: vec![incident()],
        moment: moment("/", is_empty),
        notifications: Some(text()),
        behind: behind(),
    }
}

/// The choice of a moment, with a past one if `is_past`.
fn moment(path: &str, is_past: bool) -> MomentBar {
    let now = now();
    let at = is_past.then(|| now.saturating_sub(std::time::Duration::from_secs(7_200)));
    MomentBar { path: path.to_owned(), at, now }
}

fn sites_page() -> SitesPage {
    let query = SiteQuery { q: text(), tag: text(), ..SiteQuery::default() };
    SitesPage {
        frame: frame(Section::Sites),
        subline: text(),
        may_write: true,
        statuses: ["down", "unknown", "problem", "up", "paused"],
        regions: vec!["eu-1".to_owned()],
        columns: vec![
            query.link_column("Site", "name", false),
            query.sorted_by("p95").link_column("p95", "p95", true),
        ],
        rows: [7, 8]
            .map(|id| SiteRow {
                id,
                version: SiteVersion(1042),
                name: text(),
                url: Some(text()),
                status: StatusMark::Up,
                tags: vec![TagLink::new(HOSTILE)],
                uptime: "99.98 %".to_owned(),
                coverage: "100 %".to_owned(),
                p95: "104 ms".to_owned(),
                strip: strip("uugpx").svg,
            })
            .into(),
        pager: Pager { shown: text(), first: Some("/sites".to_owned()), next: Some(query.address()) },
        behind: behind(),
        filter: query,
    }
}

fn site_page() -> SitePage {
    let span = Span { from: "2026-11-20T11:00:00Z".parse().unwrap(), to: now() };
    let columns = [PhaseColumn { at: span.from, means: Observed::Known([1e3, 2e3, 3e3, 4e3, 5e3]) }];
    SitePage {
        frame: frame(Section::Sites),
        id: 7,
        version: SiteVersion(1042),
        name: text(),
        url: "https://example.com/?a&b".to_owned(),
        tags: vec![TagLink::new(HOSTILE)],
        status: StatusMark::Warning,
        status_note: text(),
        may_write: true,
        is_enabled: true,
        is_new: true,
        first_answers: vec![FirstAnswer {
            region: "eu-1".to_owned(),
            status: StatusMark::Up,
            asked_at: TimeMark(now()),
            total: "104 ms".to_owned(),
            text: text(),
        }],
        first_refresh: 2,
        moment: moment("/sites/7", false),
        interval: "30 s".to_owned(),
        problem: Some(text()),
        uptimes: vec![FigureItem { name: "24 hours", value: "100 %".to_owned(), note: text(), href: None }],
        days: Figure { title: "Last 90 days", chart: strip("uuduu"), legend: Vec::new(), zoom: None },
        ledger_line: text(),
        uptime_behind: behind(),
        region_rows: vec![
            SiteRegionRow {
                region: "eu-1".to_owned(),
                check: Some(check_item(StatusMark::Up)),
                empty: String::new(),
                strip: strip("uux").svg,
            },
            SiteRegionRow { region: "us-1".to_owned(), check: None, empty: text(), strip: String::new() },
        ],
        spans: vec![("24h", "24 hours", true), ("7d", "7 days", false)],
        region_options: vec!["eu-1".to_owned()],
        region: "eu-1".to_owned(),
        charts: vec![Figure {
            title: "Phases",
            chart: draw_phases(span, &columns, &[EditMark { at: span.from, number: 1 }]),
            legend: vec![("phase dns".to_owned(), "DNS")],
            zoom: Some((span.from, span.to)),
        }],
        charts_note: text(),
        edits: vec![EditItem { number: 1, at: TimeMark(span.from), text: text() }],
        certificate: Some(CertificateView {
            summary: text(),
            chain: Some(text()),
            warning: Some(text()),
            items: vec![CertificateItem {
                region: "eu-1".to_owned(),
                expires_at: TimeMark(now()),
                days_left: 8,
                seen_at: TimeMark(now()),
            }],
            behind: behind(),
        }),
        times_behind: behind(),
        incidents: vec![incident()],
        warnings: vec![WarningItem { status: StatusMark::Warning, text: text(), since: TimeMark(now()) }],
        facts: vec![("Interval", text())],
        told: Some(RecipientsView::new(
            &SiteReach {
                site_id: 7,
                site: text(),
                routes: vec![text()],
                channels: vec![text()],
                escalation_channels: vec![text()],
            },
            true,
            "http://127.0.0.1",
        )),
        checks: vec![check_item(StatusMark::Down)],
        pager: Pager::default(),
        checks_behind: behind(),
    }
}

fn check_page() -> CheckPage {
    let check = WaterfallCheck {
        outcome: Outcome::Down,
        cause: Some(Cause::Timeout),
        lateness_us: Some(4_000),
        timing: Timing { dns_us: Some(1_000), connect_us: Some(2_000), ..Timing::default() },
    };
    CheckPage {
        frame: frame(Section::Sites),
        site: text(),
        site_id: 7,
        region: "eu-1".to_owned(),
        due: TimeMark(now()),
        status: StatusMark::Down,
        verdict: "timeout".to_owned(),
        message: text(),
        is_down: true,
        is_missed: false,
        figure: Figure { title: "Waterfall", chart: draw_waterfall(&check), legend: Vec::new(), zoom: None },
        facts: vec![("Prober", text())],
        beside: Vec::new(),
        behind: behind(),
    }
}

fn list_page() -> ListPage {
    let mut page = ListPage::new(frame(Section::Maintenance), text(), text());
    page.notice = Some(text());
    page.warning = Some(text());
    page.tabs = Tab::list("/channels");
    page.pager = Some(Pager { shown: text(), first: Some("/notifications".to_owned()), next: None });
    page.forms.push(FormView {
        name: "Filter",
        prefix: "filter",
        action: "/reports".to_owned(),
        is_post: true,
        is_panel: true,
        fields: vec![
            FormField {
                name: "tag",
                label: "Tag",
                value: text(),
                error: Some(text()),
                ..FormField::default()
            },
            FormField {
                name: "days",
                label: "Days",
                options: vec![("1".to_owned(), text())],
                error: Some(text()),
                ..FormField::default()
            },
        ],
        error: Some(text()),
        button: "Show",
    });
    let row = vec![
        Cell::site(7, HOSTILE),
        Cell::Status(StatusMark::Up),
        Cell::time(Some(now())),
        Cell::Drawing(strip("u").svg),
        Cell::Button("Remove", "/maintenance/1/remove".to_owned()),
        Cell::text(HOSTILE),
    ];
    let columns = ["Site", "State", "Time", "Days", "Remove", "#Count"];
    page.tables.push(
        TableView::new("full", text(), &columns).with_rows(vec![row].into_iter()).with_behind(behind()),
    );
    page.tables.push(TableView::new("empty", text(), &columns).with_empty(text(), text()));
    page
}

pub(super) fn render_samples() -> Vec<(&'static str, String)> {
    vec![
        ("overview", overview_page(false).render().unwrap()),
        ("overview of nothing", overview_page(true).render().unwrap()),
        ("sites", sites_page().render().unwrap()),
        ("site", site_page().render().unwrap()),
        ("site of the past", SitePage { moment: moment("/sites/7", true), ..site_page() }.render().unwrap()),
        ("check", check_page().render().unwrap()),
        ("list", list_page().render().unwrap()),
    ]
}
