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
	lines := strings.Join(all.lines(), "\n")
	if lines != "frontend \"ublk\": this kernel can: user_copy\nfrontend \"nbd-kernel\": this kernel can" {
		t.Errorf("lines: %s", lines)
	}
	lines = strings.Join(no.lines(), "\n")
	if !strings.Contains(lines, "ublk\": not here: modprobe ublk_drv") || !strings.Contains(lines, "nbd-kernel\": not here: modprobe nbd") {
		t.Errorf("lines: %s", lines)
	}
}
