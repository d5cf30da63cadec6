package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"blockengine/engine/admin"
	"blockengine/engine/config"
	"blockengine/frontends/nbdkernel"
	"blockengine/frontends/ublk"
)

// kernelDevices is what this kernel can make devices with.
type kernelDevices struct {
	ublk ublk.Report
	nbd  nbdkernel.Report
}

func probeDevices(ctx context.Context) kernelDevices {
	return kernelDevices{ublk: ublk.Probe(), nbd: nbdkernel.Probe(ctx)}
}

// lines say it to people.
func (k *kernelDevices) lines() []string {
	u, n := "frontend \"ublk\": ", "frontend \"nbd-kernel\": "
	if k.ublk.Usable {
		u += "this kernel can: " + strings.ToLower(strings.Join(k.ublk.Names, ", "))
	} else {
		u += "not here: " + strings.Join(k.ublk.Missing, "; ")
	}
	for _, note := range k.ublk.Notes {
		u += "; " + note
	}
	if k.nbd.Usable {
		n += "this kernel can"
	} else {
		n += "not here: " + strings.Join(k.nbd.Missing, "; ")
	}
	return []string{u, n}
}

// checkDevices refuses exports that this kernel can make no devices of. It asks
// only for what it needs: asking for a driver that is not there takes its time.
func checkDevices(cfg *config.Config, askUblk func() ublk.Report, askNBD func() nbdkernel.Report) (problems config.Problems) {
	askUblk, askNBD = sync.OnceValue(askUblk), sync.OnceValue(askNBD)
	for _, x := range cfg.Exports {
		var missing []string
		other := ""
		switch x.Frontend {
		case config.FrontendUblk:
			missing = askUblk().Missing
			if len(missing) > 0 && askNBD().Usable {
				other = `; or write frontend = "nbd-kernel", which this kernel can`
			}
		case config.FrontendNBDKernel:
			missing = askNBD().Missing
		}
		if len(missing) > 0 {
			problems = append(problems, cfg.ProblemAt(x.Place, "frontend",
				fmt.Sprintf("%q cannot be had on this host", x.Frontend), strings.Join(missing, "; ")+other))
		}
	}
	return problems
}

func isDevice(f config.Frontend) bool {
	return f == config.FrontendUblk || f == config.FrontendNBDKernel
}

// hasDevices tells a configuration that puts the engine into its own host's way.
func hasDevices(cfg *config.Config) bool {
	return slices.ContainsFunc(cfg.Exports, func(x config.Export) bool { return isDevice(x.Frontend) })
}

// recoverPatience is how long an order to recover waits for the device.
const recoverPatience = 25 * time.Second

// Recover implements admin.Source: an export that could not come up is tried
// once more.
func (e *engine) Recover(ctx context.Context, name string) error {
	i := slices.IndexFunc(e.exports, func(x *export) bool { return x.cfg.Name == name && isDevice(x.cfg.Frontend) })
	if i < 0 {
		return admin.Refuse(http.StatusNotFound, "no export %q of this engine is a device", name)
	}
	if e.draining.Load() {
		return admin.Refuse(http.StatusServiceUnavailable, "the engine ends")
	}
	x := e.exports[i]
	x.broken.Store(nil)
	e.look()
	for end := time.Now().Add(recoverPatience); x.pending() && time.Now().Before(end) && ctx.Err() == nil; {
		time.Sleep(20 * time.Millisecond)
	}
	switch broken := x.broken.Load(); {
	case x.up.Load():
		return nil
	case broken != nil:
		return fmt.Errorf("%s", *broken)
	}
	st, reason := x.disk.Volume.State()
	return fmt.Errorf("export %q is not up yet: its volume is %s: %s", name, st, dash(reason))
}
