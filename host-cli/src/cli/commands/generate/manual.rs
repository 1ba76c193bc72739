//! A manual page from the definition of a command, with the sections that such pages have.

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

/// What a command's closing text begins a section with, and what that is called in a manual.
const SECTIONS: [(&str, &str); 4] = [
    ("Example:", "EXAMPLES"),
    ("Examples:", "EXAMPLES"),
    ("Exit codes:", "EXIT STATUS"),
    ("The exit code is ", "EXIT STATUS"),
];

/// What all the rest is called.
const NOTES: &str = "NOTES";

/// The file of a command's page.
pub(super) fn file_name(command: &Command) -> String {
    let name = command.get_display_name();
    format!("{}.1", name.unwrap_or_else(|| command.get_name()))
}

/// Writes the page of a command that was built.
///
/// # Errors
///
/// If it cannot be written.
pub(super) fn render(command: Command, page: &mut Vec<u8>) -> io::Result<()> {
    let has_commands = command.get_subcommands().any(|inner| !inner.is_hide_set());
    let closing = command
        .get_after_long_help()
        .or(command.get_after_help())
        .map(ToString::to_string);
    let source = concat!("sovereign ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command).source(source);
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if has_commands {
        man.render_subcommands_section(page)?;
    }
    for (title, paragraphs) in sections(closing.as_deref().unwrap_or_default()) {
        let mut roff = Roff::default();
        roff.control("SH", [title]);
        for paragraph in paragraphs {
            roff.control("PP", []);
            add(&mut roff, paragraph);
        }
        roff.to_writer(page)?;
    }
    Ok(())
}

/// A closing text's paragraphs by the sections that they belong to, in the manual's order.
fn sections(text: &str) -> Vec<(&'static str, Vec<&str>)> {
    let mut sections = vec![
        ("EXIT STATUS", Vec::new()),
        (NOTES, Vec::new()),
        ("EXAMPLES", Vec::new()),
    ];
    for paragraph in text.split("\n\n") {
        let known = SECTIONS
            .iter()
            .find_map(|(begin, title)| Some((*title, paragraph.strip_prefix(*begin)?)));
        let (title, paragraph) = match known {
            // A sentence stays whole; of a list, the section's title is the heading.
            Some((title, rest)) if rest.starts_with('\n') => (title, rest),
            Some((title, _)) => (title, paragraph),
            None => (NOTES, paragraph),
        };
        for (_, paragraphs) in sections.iter_mut().filter(|(known, _)| *known == title) {
            paragraphs.push(paragraph.trim_matches('\n'));
        }
    }
    sections.retain(|(_, paragraphs)| paragraphs.iter().any(|it| !it.is_empty()));
    sections
}

/// Prose is filled; what is indented stays as it is.
fn add(roff: &mut Roff, paragraph: &str) {
    let mut is_kept = false;
    for line in paragraph.lines() {
        let keeps = line.starts_with(' ');
        if keeps != is_kept {
            roff.control(if keeps { "nf" } else { "fi" }, []);
            is_kept = keeps;
        }
        roff.text([roman(line)]);
    }
    if is_kept {
        roff.control("fi", []);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::args::Cli;

    fn page(name: &str) -> String {
        let mut command = Cli::command();
        command.build();
        let command = command.find_subcommand(name).unwrap().clone();
        let mut page = Vec::new();
        render(command, &mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    #[test]
    fn a_page_has_the_sections_of_a_manual() {
        let run = page("run");
        let titles: Vec<_> = run
            .lines()
            .filter_map(|line| line.strip_prefix(".SH "))
            .collect();
        assert!(titles.starts_with(&["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"]));
        assert!(
            titles.ends_with(&["\"EXIT STATUS\"", "NOTES", "EXAMPLES"]),
            "{titles:?}"
        );
        assert!(page("prune").contains("EXIT STATUS"));
        assert!(page("doctor").contains("EXIT STATUS"));
    }

    #[test]
    fn what_is_indented_stays_as_it_is() {
        let mut roff = Roff::default();
        add(&mut roff, "Prose:\n  a  b\n  c\nmore");
        let text = roff.to_roff();
        assert!(text.contains(".nf\n  a  b\n  c\n.fi\nmore"), "{text}");
    }
}
