//! ACPI fixed hardware: PM1a event and control registers, and the power-management timer. (ACPI 6.4, section 4.8.)
//!
//! The machine is always in ACPI mode: SCI_EN reads as 1 and there is no SMI command port.

use crate::board::{End, Power};
use crate::clock::{self, Clock, Nanos};
use crate::dev::Device;
use crate::irq::Line;
use std::sync::Arc;

/// PM1a_EVT_BLK: status and enable, 4 bytes.
pub const PM1A_EVT: u16 = 0x600;
/// PM1a_CNT_BLK: control, 2 bytes.
pub const PM1A_CNT: u16 = 0x604;
/// PM_TMR_BLK: the 32-bit timer.
pub const PM_TMR: u16 = 0x608;
/// All ports.
pub const PORTS: std::ops::RangeInclusive<u16> = PM1A_EVT..=PM_TMR + 3;
/// Rate of the timer.
pub const TIMER_HZ: u64 = 3_579_545;
/// The interrupt of power-management events.
pub const SCI: u8 = 9;
/// The sleep type that the tables give for S5, soft off.
pub const SLP_TYP_S5: u8 = 5;

const TMR: u16 = 1 << 0;
const PWRBTN: u16 = 1 << 8;
const SCI_EN: u16 = 1;
const SLP_EN: u16 = 1 << 13;
const SLP_TYP_SHIFT: u16 = 10;

/// The registers.
pub struct AcpiPm {
    status: u16,
    enable: u16,
    control: u16,
    /// The timer's carry (its bit 31 changing) was seen up to here, in ticks.
    seen: u64,
    sci: Line,
    power: Arc<Power>,
    clock: Clock,
}

impl AcpiPm {
    /// Registers that raise `sci` and switch off `power`.
    #[must_use]
    pub fn new(sci: Line, power: Arc<Power>, clock: Clock) -> AcpiPm {
        AcpiPm { status: 0, enable: 0, control: 0, seen: 0, sci, power, clock }
    }

    /// Somebody presses the power button.
    pub fn press_power_button(&mut self) {
        self.status |= PWRBTN;
        self.update();
    }

    fn update(&mut self) {
        self.sci.set(self.status & self.enable & (TMR | PWRBTN) != 0);
    }

    fn byte(&self, port: u16, now: Nanos) -> u8 {
        let [sl, sh] = self.status.to_le_bytes();
        let [el, eh] = self.enable.to_le_bytes();
        let [cl, ch] = (self.control & !SLP_EN | SCI_EN).to_le_bytes();
        let t = (clock::ticks(now, TIMER_HZ) as u32).to_le_bytes();
        let registers = [sl, sh, el, eh, cl, ch, 0, 0, t[0], t[1], t[2], t[3]];
        registers.get(usize::from(port - PM1A_EVT)).copied().unwrap_or(0)
    }

    fn write_byte(&mut self, port: u16, value: u8) {
        let shift = 8 * (port & 1);
        let (mask, value) = (0xff << shift, u16::from(value) << shift);
        match port & !1 {
            0x600 => self.status &= !value,
            0x602 => self.enable = self.enable & !mask | value,
            PM1A_CNT => {
                self.control = self.control & !mask | value;
                if self.control & SLP_EN != 0 && (self.control >> SLP_TYP_SHIFT & 7) as u8 == SLP_TYP_S5 {
                    self.power.end(End::PowerOff);
                }
                self.control &= !SLP_EN;
            }
            _ => {}
        }
    }
}

impl Device for AcpiPm {
    fn width(&self) -> u8 {
        4
    }
    fn read(&mut self, port: u16, size: u8) -> u32 {
        let now = self.clock.now();
        (0..u16::from(size)).fold(0, |v, i| v | u32::from(self.byte(port + i, now)) << (8 * i))
    }

    fn write(&mut self, port: u16, size: u8, value: u32) {
        for i in 0..u16::from(size) {
            self.write_byte(port + i, (value >> (8 * i)) as u8);
        }
        self.update();
    }

    fn tick(&mut self, now: Nanos) {
        let t = clock::ticks(now, TIMER_HZ);
        if t >> 31 != self.seen >> 31 {
            self.status |= TMR;
            self.update();
        }
        self.seen = t;
    }

    fn deadline(&self) -> Option<Nanos> {
        (self.enable & TMR != 0).then(|| clock::at(((self.seen >> 31) + 1) << 31, TIMER_HZ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TimeSource;
    use crate::irq::Lines;

    fn pm() -> (Arc<Lines>, Arc<Power>, AcpiPm) {
        let (lines, power) = (Lines::new(), Arc::new(Power::default()));
        let sci = lines.connect(SCI);
        (lines, power.clone(), AcpiPm::new(sci, power, Clock::start(TimeSource::Host)))
    }

    #[test]
    fn s5_switches_off() {
        let (_, power, mut pm) = pm();
        assert_eq!(pm.read(PM1A_CNT, 2) as u16 & SCI_EN, SCI_EN);
        pm.write(PM1A_CNT, 2, u32::from(SLP_TYP_S5) << 10);
        assert_eq!(power.ended(), None, "not before SLP_EN");
        pm.write(PM1A_CNT, 2, u32::from(SLP_TYP_S5) << 10 | u32::from(SLP_EN));
        assert_eq!(power.ended(), Some(End::PowerOff));
    }

    #[test]
    fn the_power_button_interrupts_until_it_is_cleared() {
        let (lines, _, mut pm) = pm();
        pm.write(0x602, 2, PWRBTN.into());
        pm.press_power_button();
        assert_eq!(lines.levels(), 1 << SCI);
        assert_eq!(pm.read(PM1A_EVT, 4), u32::from(PWRBTN) << 16 | u32::from(PWRBTN));
        pm.write(PM1A_EVT, 2, PWRBTN.into());
        assert_eq!(lines.levels(), 0);
    }

    #[test]
    fn the_timer_reports_its_carry() {
        let (lines, _, mut pm) = pm();
        pm.write(0x602, 2, TMR.into());
        let carry = pm.deadline().unwrap();
        pm.tick(carry - 1);
        assert_eq!(lines.levels(), 0);
        pm.tick(carry);
        assert_eq!(lines.levels(), 1 << SCI);
        assert_eq!(pm.deadline(), Some(clock::at(2 << 31, TIMER_HZ)));
    }
}
