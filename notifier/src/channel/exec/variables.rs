//! Variables of a program's environment.

/// Names and meanings, in the order of the values.
pub const EXEC_VARIABLES: [(&str, &str); 9] = [
    ("PICKET_NOTIFICATION_ID", "number of the notification, the same at each attempt"),
    ("PICKET_TITLE", "the title, or what the template `title` prints"),
    ("PICKET_BODY", "the text, or what the template `body` prints; at most 32 KiB"),
    ("PICKET_SEVERITY", "`critical`, `warning`, `info` or `resolved`"),
    ("PICKET_PURPOSE", "`alert`, `reminder`, `escalation`, `digest` or `test`"),
    ("PICKET_SITE", "name of the first item: of its site, region or channel"),
    ("PICKET_URL", "URL of the site of the first item"),
    ("PICKET_INCIDENT_ID", "number of the incident of the first item"),
    ("PICKET_LINK", "page of Picket's web UI about the message"),
];
