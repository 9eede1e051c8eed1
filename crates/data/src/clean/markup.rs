//! HTML out of texts: tags, comments, scripts and styles go, entities are decoded. It is no parser of documents: a `<`
//! that opens no tag stays. Linear in the text's length, whatever the text.

use std::borrow::Cow;

/// Tags that stand inside a word or a sentence; every other tag leaves a space.
const INLINE: [&str; 25] = [
    "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "del", "em", "font", "i", "ins", "kbd", "mark",
    "s", "small", "span", "strike", "strong", "sub", "sup", "u", "wbr",
];

pub(super) fn without_markup(text: &str) -> Cow<'_, str> {
    match without_tags(text) {
        Cow::Borrowed(text) => html_escape::decode_html_entities(text),
        Cow::Owned(text) => Cow::Owned(match html_escape::decode_html_entities(&text) {
            Cow::Borrowed(_) => text,
            Cow::Owned(decoded) => decoded,
        }),
    }
}

fn without_tags(text: &str) -> Cow<'_, str> {
    let mut after = String::new();
    let mut kept_to = 0;
    let mut at = 0;
    let mut closings = Closings::default();
    while let Some(open) = text.get(at..).and_then(|rest| rest.find('<')).map(|found| at + found) {
        match tag(text, open, &mut closings) {
            Some((end, space)) => {
                after.push_str(text.get(kept_to..open).unwrap_or_default());
                if space {
                    after.push(' ');
                }
                (kept_to, at) = (end, end);
            }
            None => at = open + 1,
        }
    }
    if kept_to == 0 {
        return Cow::Borrowed(text);
    }
    after.push_str(text.get(kept_to..).unwrap_or_default());
    Cow::Owned(after)
}

/// Endings that are known not to come any more, so that no text is searched twice to its end.
#[derive(Default)]
struct Closings {
    no_tag: bool,
    no_comment: bool,
    no_script: bool,
    no_style: bool,
}

/// The end of the markup that opens at `open`, and whether it leaves a space; `None` when it is no markup.
fn tag(text: &str, open: usize, closings: &mut Closings) -> Option<(usize, bool)> {
    let rest = text.get(open + 1..)?;
    if rest.starts_with("!--") {
        return search(rest, "-->", &mut closings.no_comment).map(|end| (open + 1 + end, true));
    }
    let name_at = usize::from(rest.starts_with('/'));
    let first = rest.as_bytes().get(name_at)?;
    let declares = name_at == 0 && matches!(first, b'!' | b'?');
    if !first.is_ascii_alphabetic() && !declares {
        return None;
    }
    let end = search(rest, ">", &mut closings.no_tag)?;
    let inside = rest.get(name_at..end)?;
    let length = inside.bytes().position(|b| !b.is_ascii_alphanumeric()).unwrap_or(inside.len());
    let name = inside.get(..length)?.to_ascii_lowercase();
    let mut end = open + 1 + end;
    let hidden = match name.as_str() {
        "script" => Some(("</script", &mut closings.no_script)),
        "style" => Some(("</style", &mut closings.no_style)),
        _ => None,
    };
    if let Some((closing, gone)) = hidden.filter(|_| name_at == 0)
        && let Some(close) = search(text.get(end..)?, closing, gone)
    {
        end += close;
        end += text.get(end..).and_then(|rest| rest.find('>')).map_or(0, |found| found + 1);
    }
    Some((end, !INLINE.contains(&name.as_str())))
}

/// Where `closing` ends in `rest`, whatever its case; remembers in `gone` when it does not come.
fn search(rest: &str, closing: &str, gone: &mut bool) -> Option<usize> {
    if *gone {
        return None;
    }
    let found = match closing.len() {
        1 => rest.find(closing),
        length => memchr::memchr_iter(closing.as_bytes()[0], rest.as_bytes()).find(|at| {
            rest.as_bytes().get(*at..at + length).is_some_and(|b| b.eq_ignore_ascii_case(closing.as_bytes()))
        }),
    };
    *gone = found.is_none();
    found.map(|at| at + closing.len())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn tags_go_and_text_stays() {
        for (text, wanted) in [
            ("<b>bo</b>ld", "bold"),
            ("one<br/>two", "one two"),
            ("<p class=\"x\">a</p>", " a "),
            ("if a < b and c > d", "if a < b and c > d"),
            ("i <3 this", "i <3 this"),
            ("x<!-- no > words -->y", "x y"),
            ("x<script>if (a<b) {}</SCRIPT >y<style>p{}</style>z", "x y z"),
            ("AT&amp;T &lt;b&gt; &#233;&#x41;", "AT&T <b> éA"),
            ("unclosed <a href=", "unclosed <a href="),
            ("<!DOCTYPE html>t", " t"),
            ("é<i>é</i>é", "ééé"),
        ] {
            assert_eq!(without_markup(text), wanted, "{text}");
        }
    }

    #[test]
    fn hostile_markup_takes_linear_time() {
        for part in ["<a", "<!--", "<script>", "<", "&#", "</", "<style><a>"] {
            let text = part.repeat(400_000);
            let start = std::time::Instant::now();
            let after = without_markup(&text);
            assert!(after.len() <= text.len());
            assert!(start.elapsed().as_secs() < 5, "{part}: {:?}", start.elapsed());
        }
    }
}
