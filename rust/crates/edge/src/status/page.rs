//! The overview as a page: plain HTML that needs nothing from elsewhere. Pure.

use std::fmt::{Display, Write};

use super::overview::Overview;

const HEAD: &str = "<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color-scheme: light dark; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 2rem; }
caption { text-align: left; font-weight: bold; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8885; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
</style>
";

/// Write the page.
pub(super) fn html(overview: &Overview) -> String {
    let mut page = String::from(HEAD);
    let title = format!("Edge of {} in {}", overview.host, overview.region);
    put(
        &mut page,
        "<title>",
        &title,
        "</title></head>\n<body><main>\n",
    );
    put(&mut page, "<h1>", &title, "</h1>\n");
    summary(&mut page, overview);
    table(
        &mut page,
        "Apps with machines on this host",
        &["App", "Machines", "Started", "In flight here"],
        overview.apps.iter().map(|app| {
            let name: &dyn Display = &app.name;
            [name, &app.machines, &app.started, &app.in_flight].map(ToString::to_string)
        }),
    );
    machines(&mut page, overview);
    table(
        &mut page,
        "Other hosts",
        &["Host", "Region", "Round trip", "State"],
        overview.hosts.iter().map(|host| {
            let took = host.rtt_us.map(|micros| f64::from(micros) / 1000.0);
            let took = took.map_or("not asked".into(), |ms| format!("{ms:.1} ms"));
            let state = if host.silent { "silent" } else { "answers" };
            let state = host.rtt_us.map_or("-", |_| state);
            [host.id.clone(), host.region.clone(), took, state.to_owned()]
        }),
    );
    refused(&mut page, overview);
    ports(&mut page, overview);
    page.push_str("</main></body></html>\n");
    page
}

fn summary(page: &mut String, overview: &Overview) {
    let known = |yes: bool| {
        if yes {
            "told everything"
        } else {
            "not heard yet"
        }
    };
    let catalog = &overview.catalog;
    let what = [
        ("State", overview.phase.to_owned()),
        ("Version", overview.version.to_owned()),
        ("Up", lasted(overview.up_s)),
        ("Requests waiting", overview.waiting.to_string()),
        (
            "Known in all",
            format!(
                "{} apps, {} machines, {} hosts",
                catalog.apps, catalog.machines, catalog.hosts
            ),
        ),
        ("Agent", known(catalog.agent_synced).to_owned()),
        ("Bus", known(catalog.bus_synced).to_owned()),
    ];
    let rows = what.map(|(name, value)| [name.to_owned(), value]);
    table(page, "This edge", &["", ""], rows.into_iter());
}

fn machines(page: &mut String, overview: &Overview) {
    table(
        page,
        "Machines of this host",
        &["Machine", "App", "Region", "State", "Health", "In flight"],
        overview.machines.iter().map(|machine| {
            let id: &dyn Display = &machine.id;
            [
                id,
                &machine.app,
                &machine.region,
                &machine.state,
                &machine.health,
                &machine.in_flight,
            ]
            .map(ToString::to_string)
        }),
    );
    if overview.machines_not_shown > 0 {
        let more = format!("and {} more", overview.machines_not_shown);
        put(page, "<p>", &more, "</p>\n");
    }
}

fn refused(page: &mut String, overview: &Overview) {
    table(
        page,
        "Refused requests",
        &["Status", "Code", "Count"],
        overview.refused_requests.iter().map(|line| {
            [
                line.status.to_string(),
                line.code.to_owned(),
                line.count.to_string(),
            ]
        }),
    );
    let reasons = overview.refused_connections.iter();
    table(
        page,
        "Refused connections",
        &["Reason", "Count"],
        reasons
            .filter(|(_, count)| **count > 0)
            .map(|(reason, count)| [(*reason).to_owned(), count.to_string()]),
    );
}

fn ports(page: &mut String, overview: &Overview) {
    let (tcp, udp) = (&overview.tcp, &overview.udp);
    let open = |at: String, kind: &str, state: &str| [at, kind.to_owned(), state.to_owned()];
    let tcp_open = tcp
        .open
        .iter()
        .map(|at| open(at.address.to_string(), "TCP", "open"));
    let udp_open = udp
        .open
        .iter()
        .map(|at| open(at.to_string(), "UDP", "open"));
    let tcp_not = tcp
        .refused
        .iter()
        .map(|at| open(at.address.to_string(), "TCP", &at.reason));
    let udp_not = udp
        .refused
        .iter()
        .map(|at| open(at.address.to_string(), "UDP", &at.reason));
    table(
        page,
        "Ports",
        &["Address", "Protocol", "State"],
        tcp_not.chain(udp_not).chain(tcp_open).chain(udp_open),
    );
    let beyond = tcp.beyond_limit + udp.beyond_limit;
    if beyond > 0 {
        let more = format!("{beyond} more are wanted than may be open");
        put(page, "<p>", &more, "</p>\n");
    }
}

fn table<const N: usize>(
    page: &mut String,
    caption: &str,
    heads: &[&str; N],
    rows: impl Iterator<Item = [String; N]>,
) {
    put(page, "<table><caption>", caption, "</caption>\n");
    if heads.iter().any(|head| !head.is_empty()) {
        page.push_str("<thead><tr>");
        for head in heads {
            put(page, "<th scope=\"col\">", head, "</th>");
        }
        page.push_str("</tr></thead>\n");
    }
    page.push_str("<tbody>\n");
    let mut none = true;
    for row in rows {
        none = false;
        page.push_str("<tr>");
        for cell in &row {
            put(page, "<td>", cell, "</td>");
        }
        page.push_str("</tr>\n");
    }
    if none {
        let _ = writeln!(page, "<tr><td colspan=\"{N}\">none</td></tr>");
    }
    page.push_str("</tbody></table>\n");
}

/// Text between tags.
fn put(page: &mut String, before: &str, text: &str, behind: &str) {
    page.push_str(before);
    for letter in text.chars() {
        match letter {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '"' => page.push_str("&quot;"),
            letter => page.push(letter),
        }
    }
    page.push_str(behind);
}

fn lasted(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_text() {
        let mut page = String::new();
        table(
            &mut page,
            "A & B",
            &["x"],
            [["<b>\"".to_owned()]].into_iter(),
        );
        assert!(page.contains("<caption>A &amp; B</caption>"));
        assert!(page.contains("<td>&lt;b&gt;&quot;</td>"));
        table(&mut page, "C", &["x", "y"], std::iter::empty());
        assert!(page.contains("<td colspan=\"2\">none</td>"));
    }

    #[test]
    fn a_time_is_told_in_its_greatest_units() {
        for (seconds, text) in [
            (59, "59 s"),
            (60, "1 min"),
            (3_700, "1 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(lasted(seconds), text);
        }
    }
}
