//! Readers, and what they wait for.

use super::messages::{ReadShell, ShellAnswer, ShellRead, Until};
use super::output::{ANSWER_BYTES, Output, Piece};
use super::{Shell, ShellError, failed, lock};
use crate::limits::SHELL_BYTES;
use crate::problem::{Explain, Problem};
use crate::supervisor::detached::Later;
use crate::supervisor::protocol::Answer;
use regex::bytes::{Regex, RegexBuilder};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// How long the output must stay idle after a prompt until it counts: a shell that has read its next command
/// already says so at once.
const PROMPT_IDLE: Duration = Duration::from_millis(50);

/// Between two searches of the output: each looks at all that is beyond the cursor.
const SEARCH_INTERVAL: Duration = Duration::from_millis(20);

/// What a pattern may take when it is prepared, bytes.
const PATTERN_BYTES: usize = 1 << 20;

/// What a reader waits for, prepared.
enum Wanted {
    Now,
    More,
    Idle(Duration),
    Prompt,
    Match(Regex),
}

/// A moment in a wait.
enum Look {
    Satisfied,
    /// Not yet; without a change of the output it is satisfied then, if ever.
    NotBefore(Option<Instant>),
}

impl Wanted {
    fn new(until: &Until) -> Result<Self, ShellError> {
        let pattern = |text: &str| {
            RegexBuilder::new(text)
                .multi_line(true)
                // A terminal's lines end with both, and begin anew after a carriage return alone.
                .crlf(true)
                .size_limit(PATTERN_BYTES)
                .dfa_size_limit(PATTERN_BYTES)
                .build()
                .map(Self::Match)
                .map_err(|error| ShellError::Pattern(reason(&error)))
        };
        match until {
            Until::Now => Ok(Self::Now),
            Until::More => Ok(Self::More),
            Until::Idle(millis) => Ok(Self::Idle(Duration::from_millis(*millis))),
            Until::Prompt => Ok(Self::Prompt),
            Until::Text(text) => pattern(&regex::escape(text)),
            Until::Pattern(text) => pattern(text),
        }
    }

    fn look(&self, output: &mut Output, read: &ReadShell, begun: Instant) -> Look {
        let idle_from = |from: Instant, idle: Duration| match from + idle <= Instant::now() {
            true => Look::Satisfied,
            false => Look::NotBefore(Some(from + idle)),
        };
        let now_or_never = |is_there: bool| match is_there {
            true => Look::Satisfied,
            false => Look::NotBefore(None),
        };
        match self {
            Self::Now => Look::Satisfied,
            Self::More => now_or_never(output.end() > read.cursor),
            Self::Idle(idle) => idle_from(output.last_at().max(begun), *idle),
            Self::Prompt => match output.is_at_prompt() {
                true => idle_from(output.last_at(), PROMPT_IDLE),
                false => Look::NotBefore(None),
            },
            Self::Match(pattern) => {
                let found = output.read(read.cursor, SHELL_BYTES, read.form);
                now_or_never(found.is_ok_and(|piece| pattern.is_match(&piece.bytes)))
            }
        }
    }
}

/// The last line; those before it draw the pattern with a mark below.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().next_back().unwrap_or_default().trim();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// Answers a reader as soon as there is what it waits for.
pub(super) fn read(shell: Shell, read: ReadShell) -> Result<Later, Problem> {
    let wanted = Wanted::new(&read.until).map_err(|error| error.explain())?;
    let end = lock(&shell.output).end();
    if read.cursor > end {
        return Err(ShellError::BeyondEnd { cursor: read.cursor, end }.explain());
    }
    let limit = Instant::now() + Duration::from_millis(read.limit_ms);
    Ok(Box::pin(async move {
        let is_satisfied = timeout_at(limit, satisfied(shell.clone(), &wanted, &read)).await.unwrap_or(false);
        answer(&mut lock(&shell.output), &read, is_satisfied)
    }))
}

/// Waits; tells whether there is what was waited for, or the shell has ended without it.
async fn satisfied(shell: Shell, wanted: &Wanted, read: &ReadShell) -> bool {
    let begun = Instant::now();
    let mut changes = shell.changes.clone();
    loop {
        changes.borrow_and_update();
        let (look, is_running) = {
            let mut output = lock(&shell.output);
            let look = wanted.look(&mut output, read, begun);
            (look, output.is_running())
        };
        let not_before = match look {
            Look::Satisfied => return true,
            // Nothing comes any more: it is as idle as it gets.
            Look::NotBefore(at) if !is_running => return at.is_some(),
            Look::NotBefore(at) => at,
        };
        let changed = async {
            if changes.changed().await.is_err() && lock(&shell.output).is_running() {
                // Its machine is ending, which the client is told.
                std::future::pending::<()>().await;
            }
        };
        match not_before {
            Some(at) => tokio::select! { () = changed => {} () = sleep_until(at) => {} },
            None => changed.await,
        }
        if matches!(wanted, Wanted::Match(_)) {
            tokio::time::sleep(SEARCH_INTERVAL).await;
        }
    }
}

fn answer(output: &mut Output, read: &ReadShell, is_satisfied: bool) -> Answer {
    let most = read.most.min(ANSWER_BYTES);
    match output.read(read.cursor, most, read.form) {
        Ok(Piece { bytes, next_cursor, lost_bytes, more }) => {
            let (record, output) = (output.record().clone(), hex::encode(bytes));
            let read = ShellRead { record, next_cursor, output, lost_bytes, more, is_satisfied };
            Answer::Shell(Box::new(ShellAnswer::Read(read)))
        }
        Err(error) => failed(error),
    }
}
