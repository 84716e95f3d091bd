"""The time of day as the RTC's registers hold it: in BCD or binary, by 24 hours or by 12. Motorola "MC146818A", "Time,
Calendar, and Alarm Locations".

A moment is a number of seconds since 1 January 1970. Bytes that are no time of day are taken for the nearest that is.
"""

from __future__ import annotations

from collections.abc import Sequence

MINUTE, HOUR, DAY = 60, 3600, 86_400
BINARY, BY_24_HOURS = 0x04, 0x02            # in register B
AFTERNOON = 0x80                            # in the hours, by 12 hours
DO_NOT_CARE = 0xC0                          # an alarm byte from here on fits every time
_DAYS_BEFORE_1970 = 719_468                 # from 1 March of the year 0
_FIRST_WEEKDAY = 4                          # 1 January 1970 was a Thursday; Sunday is 0


def encode(value: int, format_bits: int) -> int:
    """*value*, 0..99, as a byte."""
    return value if format_bits & BINARY else value // 10 << 4 | value % 10


def decode(byte: int, format_bits: int) -> int:
    """What *byte* means."""
    return byte if format_bits & BINARY else (byte >> 4) * 10 + (byte & 0xF)


def encode_hour(hour: int, format_bits: int) -> int:
    """*hour*, 0..23, as a byte."""
    if format_bits & BY_24_HOURS:
        return encode(hour, format_bits)
    return encode((hour + 11) % 12 + 1, format_bits) | (AFTERNOON if hour >= 12 else 0)


def decode_hour(byte: int, format_bits: int) -> int:
    """What a byte of hours means: 0 and more."""
    if format_bits & BY_24_HOURS:
        return decode(byte, format_bits)
    return decode(byte & ~AFTERNOON, format_bits) % 12 + (12 if byte & AFTERNOON else 0)


def to_bytes(moment: int, format_bits: int) -> list[int]:
    """Seconds, minutes, hours, day of the week (Sunday is 1), day, month, year of the century, century."""
    days, second = divmod(moment, DAY)
    year, month, day = _date(days)
    plain = [second % 60, second // MINUTE % 60, 0, (days + _FIRST_WEEKDAY) % 7 + 1, day, month, year % 100,
             year // 100 % 100]
    found = [encode(value, format_bits) for value in plain]
    found[2] = encode_hour(second // HOUR, format_bits)
    return found


def from_bytes(values: Sequence[int], format_bits: int) -> int:
    """The moment that such bytes mean; the day of the week follows from the date."""
    second, minute, _, _, day, month, year, century = (decode(value, format_bits) for value in values)
    hour = min(decode_hour(values[2], format_bits), 23)
    days = _days(century * 100 + year, min(max(month, 1), 12), min(max(day, 1), 31))
    return days * DAY + hour * HOUR + min(minute, 59) * MINUTE + min(second, 59)


def next_alarm(moment: int, alarm: Sequence[int], format_bits: int) -> int | None:
    """The first moment after *moment* that *alarm* (seconds, minutes, hours) fits, within a day; None without one."""
    second, minute = (None if byte >= DO_NOT_CARE else decode(byte, format_bits) for byte in alarm[:2])
    hour = None if alarm[2] >= DO_NOT_CARE else decode_hour(alarm[2], format_bits)
    if (hour or 0) >= 24 or (minute or 0) >= 60 or (second or 0) >= 60:
        return None
    at = moment + 1
    while at <= moment + DAY:
        if hour is not None and at % DAY // HOUR != hour:
            at += HOUR - at % HOUR
        elif minute is not None and at % HOUR // MINUTE != minute:
            at += MINUTE - at % MINUTE
        elif second is not None and at % MINUTE != second:
            at += 1
        else:
            return at
    return None


def _days(year: int, month: int, day: int) -> int:
    """From 1 January 1970 to a date of the Gregorian calendar. Years begin in March here, so that a leap day ends
    one."""
    year, month = (year, month - 3) if month > 2 else (year - 1, month + 9)
    return year * 365 + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day - 1 - _DAYS_BEFORE_1970


def _date(days: int) -> tuple[int, int, int]:
    """The year, month and day of it."""
    era, day_of_era = divmod(days + _DAYS_BEFORE_1970, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month + 2) // 5 + 1
    year = era * 400 + year_of_era + (month >= 10)
    return year, month + 3 if month < 10 else month - 9, day
