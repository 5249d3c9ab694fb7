//! What surrounds the content of every page: title, navigation, sign-in state, colours and the ledger's sum.

use http::{HeaderMap, header};

use crate::{access::Access, assets::asset_path};

/// Name of the cookie with the chosen colours.
pub(super) const THEME_COOKIE: &str = "picket_theme";

/// Page of the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Overview,
    Sites,
    Incidents,
    Warnings,
    Live,
    Check,
    Maintenance,
    Notifications,
    Reports,
    Ledger,
    Regions,
    Tokens,
    Settings,
}

impl Section {
    const ALL_SECTIONS: [(Self, &'static str, &'static str); 13] = [
        (Self::Overview, "/", "Overview"),
        (Self::Sites, "/sites", "Sites"),
        (Self::Incidents, "/incidents", "Incidents"),
        (Self::Warnings, "/warnings", "Warnings"),
        (Self::Live, "/live", "Live"),
        (Self::Check, "/check", "Check"),
        (Self::Maintenance, "/maintenance", "Maintenance"),
        (Self::Notifications, "/notifications", "Notifications"),
        (Self::Reports, "/reports", "Reports"),
        (Self::Ledger, "/ledger", "Ledger"),
        (Self::Regions, "/regions", "Regions"),
        (Self::Tokens, "/tokens", "Tokens"),
        (Self::Settings, "/settings", "Settings"),
    ];
}

/// Colours of the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Theme {
    /// As the reader's system has it.
    #[default]
    Auto,
    Light,
    Dark,
}

impl Theme {
    pub(super) const ALL_THEMES: [Self; 3] = [Self::Auto, Self::Light, Self::Dark];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        Self::ALL_THEMES.into_iter().find(|theme| theme.word() == word)
    }

    /// The choice that a cookie holds; anything else is no choice.
    pub(super) fn from_headers(headers: &HeaderMap) -> Self {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs =
            cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs
            .find(|(name, _)| *name == THEME_COOKIE)
            .and_then(|(_, word)| Self::from_word(word))
            .unwrap_or_default()
    }

    /// Value of the attribute that selects the colours.
    pub(crate) fn attribute(self) -> Option<&'static str> {
        match self {
            Self::Auto => None,
            Self::Light | Self::Dark => Some(self.word()),
        }
    }
}

/// Link of the navigation.
pub(crate) struct NavigationLink {
    pub(crate) path: &'static str,
    pub(crate) name: &'static str,
    pub(crate) is_current: bool,
}

/// See the module documentation.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) title: String,
    pub(crate) section: Option<Section>,
    /// Name of the session, if the reader is signed in.
    pub(crate) user: Option<String>,
    /// Whether requests need no sign-in.
    pub(crate) is_open: bool,
    pub(crate) theme: Theme,
    /// Sum of the ledger in words, if it is known.
    pub(crate) ledger_line: Option<String>,
    pub(crate) assets: String,
}

impl Frame {
    /// Frame of a page for a reader. `access` is absent on pages that need none.
    pub(crate) fn new(
        title: impl Into<String>,
        section: Option<Section>,
        access: Option<&Access>,
        theme: Theme,
    ) -> Self {
        let is_open = access.is_some_and(|access| access.is_open);
        Self {
            title: title.into(),
            section,
            user: access.filter(|access| access.is_session).map(|access| access.name.clone()),
            is_open,
            theme,
            ledger_line: None,
            assets: asset_path(),
        }
    }

    pub(crate) fn links(&self) -> impl Iterator<Item = NavigationLink> {
        let current = self.section;
        Section::ALL_SECTIONS.into_iter().map(move |(section, path, name)| NavigationLink {
            path,
            name,
            is_current: current == Some(section),
        })
    }

    pub(crate) fn themes(&self) -> [Theme; 3] {
        Theme::ALL_THEMES
    }
}
