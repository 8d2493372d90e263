"""Real QEMU processes under TCG: what fails without proxyd, what loads with it, and what is refused safely."""
