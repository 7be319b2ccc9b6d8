//! The `Date` of an answer (RFC 9110 section 6.6.1), made once a second by each thread.

use std::cell::RefCell;
use std::io::Write as _;
use time::OffsetDateTime;

/// `Sun, 06 Nov 1994 08:49:37 GMT`
const LENGTH: usize = 29;

thread_local! {
    static LAST: RefCell<(i64, [u8; LENGTH])> = const { RefCell::new((i64::MIN, [b' '; LENGTH])) };
}

/// Appends the time of now.
pub(super) fn append(out: &mut Vec<u8>) {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    LAST.with_borrow_mut(|(second, text)| {
        if *second != now {
            *text = format(now);
            *second = now;
        }
        out.extend_from_slice(text);
    });
}

fn format(unix: i64) -> [u8; LENGTH] {
    let mut text = [b' '; LENGTH];
    let at = OffsetDateTime::from_unix_timestamp(unix).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let short = |name: String| name.chars().take(3).collect::<String>();
    let (day, month) = (short(at.weekday().to_string()), short(at.month().to_string()));
    let (year, hour, minute, second) = (at.year(), at.hour(), at.minute(), at.second());
    let _ = write!(&mut text[..], "{day}, {:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT", at.day());
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_have_the_form_of_the_standard() {
        for (unix, text) in [
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00 GMT"),
        ] {
            assert_eq!(String::from_utf8_lossy(&super::format(unix)), text);
        }
    }
}
