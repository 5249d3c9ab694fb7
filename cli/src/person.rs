//! Who runs the command, for rows that say who wrote them.

/// The login of the person; `None` if the environment does not tell, and the database's login is
/// recorded then.
pub(crate) fn find_login() -> Option<String> {
    let named = |variable| std::env::var(variable).ok().filter(|login| !login.trim().is_empty());
    named("USER").or_else(|| named("LOGNAME"))
}
