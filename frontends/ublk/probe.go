package ublk

import (
	"context"
	"fmt"
	"log/slog"
	"math/bits"
	"os"
	"strconv"
	"strings"

	"blockengine/engine/iouring"
)

// Report says what this kernel can do.
type Report struct {
	Usable     bool     // devices can be made, by this process
	Missing    []string // what is in the way, each with how to mend it
	Notes      []string // what is not as good as it could be
	Features   uint64   // UBLK_F_… bits as the kernel tells; 0: it is older than 6.5, or not Usable
	Names      []string // those of Features
	MaxDevices int      // ublks_max, of devices that users may make; 0: unknown
	Devices    int      // that are there
}

// maxPath is where the driver says how many devices users may make.
const maxPath = "/sys/module/ublk_drv/parameters/ublks_max"

// Probe looks at what there is, without making anything.
func Probe() (r Report) {
	ring, err := iouring.New(iouring.Options{Entries: 1, SQE128: true})
	if err != nil {
		r.Missing = append(r.Missing, err.Error())
	} else {
		ring.Close()
	}
	if text, err := os.ReadFile(maxPath); err == nil {
		r.MaxDevices, _ = strconv.Atoi(strings.TrimSpace(string(text))) // 0: unknown
	}
	ids, _ := numbers() // none: said by what follows
	r.Devices = len(ids)
	if r.Missing == nil {
		r.ask()
	}
	return r
}

// ask asks the driver.
func (r *Report) ask() {
	ctl, err := openControl(context.Background(), DefaultTimeout, slog.New(slog.DiscardHandler))
	if err != nil {
		r.Missing = append(r.Missing, err.Error())
		return
	}
	defer ctl.close()
	r.Features, r.Names = ctl.features, namesOf(ctl.features)
	r.Notes = notes(ctl.features)
	if os.Geteuid() != 0 && ctl.features != 0 && ctl.features&flagUnprivileged == 0 {
		r.Missing = append(r.Missing, "this kernel makes no devices for users: run as root")
	}
	r.Usable = len(r.Missing) == 0
}

// notes says what later kernels can do.
func notes(features uint64) (list []string) {
	if features == 0 {
		list = append(list, "the driver cannot tell what it can do: Linux 6.5 can")
	}
	for _, x := range []struct {
		flag uint64
		what string
	}{
		{flagRecovery, "devices do not outlive their engine: this needs Linux 6.1"},
		{flagFailIO, `recovery "fail-io" needs Linux 6.13`},
		{flagUserCopy, `copy "user" needs Linux 6.5`},
		{flagAutoBufReg, `copy "zero" needs Linux 6.16`},
		{flagUpdateSize, "a device cannot grow while it is used: this needs Linux 6.16"},
		{flagPerIODaemon, "an engine that is killed while it takes over a device with several queues may leave it beyond recovery: Linux 6.16 gets over that"},
	} {
		if features != 0 && features&x.flag == 0 {
			list = append(list, x.what)
		}
	}
	return list
}

// namesOf gives the names of features, in the order of their bits.
func namesOf(features uint64) (names []string) {
	for f := features; f != 0; f &= f - 1 {
		if bit := bits.TrailingZeros64(f); bit < len(flagNames) {
			names = append(names, flagNames[bit])
		} else {
			names = append(names, fmt.Sprintf("bit %d", bit))
		}
	}
	return names
}
