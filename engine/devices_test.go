package main

import (
	"strings"
	"testing"

	"blockengine/engine/config"
	"blockengine/frontends/nbdkernel"
	"blockengine/frontends/ublk"
)

const deviceConfig = `
[[volume]]
name = "v"
plugin = "null"
[volume.options]
size = "1MiB"
[[export]]
name = "u"
volume = "v"
frontend = "ublk"
[[export]]
name = "k"
volume = "v"
frontend = "nbd-kernel"
`

// TestDevicesThatCannotBeHad: what is refused says what to load, and what would
// do instead.
func TestDevicesThatCannotBeHad(t *testing.T) {
	cfg, err := config.Parse("engine.toml", []byte(deviceConfig))
	if err != nil {
		t.Fatal(err)
	}
	no, some, all := kernelDevices{}, kernelDevices{}, kernelDevices{}
	no.ublk.Missing, no.nbd.Missing = []string{"modprobe ublk_drv"}, []string{"modprobe nbd"}
	some.ublk.Missing, some.nbd.Usable = []string{"modprobe ublk_drv"}, true
	all.ublk, all.nbd = ublk.Report{Usable: true, Names: []string{"USER_COPY"}}, nbdkernel.Report{Usable: true}
	for name, tc := range map[string]struct {
		can  kernelDevices
		want []string
	}{
		"none": {no, []string{
			`engine.toml:10: export "u": frontend "ublk" cannot be had on this host: modprobe ublk_drv`,
			`engine.toml:14: export "k": frontend "nbd-kernel" cannot be had on this host: modprobe nbd`}},
		"nbd": {some, []string{
			`engine.toml:10: export "u": frontend "ublk" cannot be had on this host: modprobe ublk_drv; or write frontend = "nbd-kernel", which this kernel can`}},
		"both": {all, nil},
	} {
		var got []string
		for _, p := range checkDevices(cfg, func() ublk.Report { return tc.can.ublk }, func() nbdkernel.Report { return tc.can.nbd }) {
			got = append(got, p.Error())
		}
		if strings.Join(got, "\n") != strings.Join(tc.want, "\n") {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
		}
	}
	x := &cfg.Exports[0]
	for _, tc := range []struct {
		copy     config.Copy
		recovery config.Recovery
		features uint64
		want     string
	}{
		{config.CopyZero, config.RecoveryFail, 0, ""}, // it cannot tell
		{config.CopyZero, config.RecoveryReissue, 0x1fe, `copy "zero" cannot be had on this host: this kernel has no copy "zero": it needs Linux 6.16`},
		{config.CopyUser, config.RecoveryFail, 0x1fe, `recovery "fail-io" cannot be had on this host: this kernel has no recovery "fail-io": it needs Linux 6.13`},
		{config.CopyUser, config.RecoveryReissue, 0x1fe, ""},
		{config.CopyZero, config.RecoveryFail, 0x1fff, ""},
	} {
		x.Copy, x.Recovery = tc.copy, tc.recovery
		got := checkDevices(cfg, func() ublk.Report { return ublk.Report{Usable: true, Features: tc.features} }, func() nbdkernel.Report { return nbdkernel.Report{} })
		if (tc.want == "") != (len(got) == 0) || len(got) > 0 && !strings.Contains(got[0].Error(), tc.want) {
			t.Errorf("%q, %q, features %#x: %v", tc.copy, tc.recovery, tc.features, got)
		}
	}
	lines := strings.Join(all.lines(), "\n")
	if lines != "frontend \"ublk\": this kernel can: user_copy\nfrontend \"nbd-kernel\": this kernel can" {
		t.Errorf("lines: %s", lines)
	}
	lines = strings.Join(no.lines(), "\n")
	if !strings.Contains(lines, "ublk\": not here: modprobe ublk_drv") || !strings.Contains(lines, "nbd-kernel\": not here: modprobe nbd") {
		t.Errorf("lines: %s", lines)
	}
}
