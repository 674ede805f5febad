import errno

import pytest

from shmfs.mm import Reservation


def test_charges_up_to_the_limit_and_no_more():
    reservation = Reservation(10)
    reservation.charge(4)
    reservation.charge(6)
    with pytest.raises(OSError, match="space") as raised:
        reservation.charge(1)
    assert raised.value.errno == errno.ENOSPC
    assert reservation.used == 10
    reservation.uncharge(3)
    reservation.charge(3)
    assert reservation.used == 10


def test_a_refused_charge_takes_nothing_and_leaves_the_peak():
    reservation = Reservation(10)
    reservation.charge(4)
    with pytest.raises(OSError, match="space"):
        reservation.charge(7)
    assert (reservation.used, reservation.peak) == (4, 4)


def test_nothing_can_be_charged_at_the_limit():
    reservation = Reservation(10)
    reservation.charge(10)
    reservation.charge(0)
    assert reservation.used == 10


def test_zero_is_unlimited():
    reservation = Reservation()
    reservation.charge(1 << 60)
    assert reservation.available(1 << 61) == 1 << 61
    assert reservation.used == 1 << 60


def test_available_is_what_a_charge_would_get():
    reservation = Reservation(10)
    reservation.charge(7)
    assert reservation.available(2) == 2
    assert reservation.available(3) == 3
    assert reservation.available(4) == 3
    reservation.charge(3)
    assert reservation.available(1) == 0


def test_the_peak_is_kept():
    reservation = Reservation(10)
    reservation.charge(8)
    reservation.uncharge(8)
    reservation.charge(2)
    assert (reservation.used, reservation.peak) == (2, 8)
