package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"blockengine/engine/admin"
	"blockengine/engine/config"
)

// target is the running engine that a command talks to.
type target struct {
	file, admin string
}

func (t *target) flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&t.file, "config", "c", "", "configuration `file` of the engine (default "+defaultFile+", if there is one)")
	cmd.Flags().StringVar(&t.admin, "admin", "", "admin socket of the engine, unix:PATH")
}

// client makes a client for the engine. Without flags that is the one of the
// configuration here, or else of this user's default state directory.
func (t *target) client() (*admin.Client, error) {
	a, err := t.address()
	if err != nil {
		return nil, err
	}
	if a.Network != "unix" {
		return nil, &misuse{fmt.Errorf("the admin address %s is no Unix socket: write unix:PATH", a)}
	}
	return admin.NewClient(a.Addr), nil
}

func (t *target) address() (config.Address, error) {
	if t.admin != "" && t.file != "" {
		return config.Address{}, &misuse{errors.New("--admin and --config both say where the engine is: give one")}
	}
	if t.admin != "" {
		dir, err := os.Getwd()
		if err != nil {
			return config.Address{}, err
		}
		a, err := config.ParseAddress(dir, t.admin)
		if err != nil {
			return a, &misuse{fmt.Errorf("--admin: %w", err)}
		}
		return a, nil
	}
	file := t.file
	if file == "" {
		file = defaultFile
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			return config.Address{Network: "unix", Addr: filepath.Join(config.DefaultStateDir(), "admin.sock")}, nil
		}
	}
	// Somebody may be editing the file; where the engine is it still says.
	cfg, err := config.Load(file)
	if cfg == nil {
		return config.Address{}, err
	}
	return cfg.Engine.Admin, nil
}

// ratePeriod is what rates are measured over.
const ratePeriod = 500 * time.Millisecond

func statusCommand() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{Use: "status", Short: "Show the volumes, exports and plugins of a running engine", Args: noArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			s, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), s)
			}
			time.Sleep(ratePeriod)
			later, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			return printStatus(cmd.OutOrStdout(), s, later)
		})}
	t.flags(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// printStatus writes tables for people; rates are those between two samples.
func printStatus(to io.Writer, before, s *admin.Status) error {
	e := s.Engine
	fmt.Fprintf(to, "engine %s, pid %d, up %s, %s, configuration %s\n", e.Version, e.PID,
		(time.Duration(e.Uptime) * time.Second).String(), count(len(e.Reactors), "reactor"), e.Config)
	if e.Draining {
		fmt.Fprintln(to, "it is draining")
	}
	if e.Partial {
		fmt.Fprintln(to, "a reactor does not answer: its counts are old")
	}
	seconds := e.Uptime - before.Engine.Uptime
	fmt.Fprintln(to)
	w := newTable(to)
	tableVolumes(w, before.Volumes, s.Volumes, seconds)
	fmt.Fprintln(w)
	tableExports(w, before.Exports, s.Exports, seconds)
	fmt.Fprintln(w)
	tablePlugins(w, s.Plugins)
	tableProcesses(w, s.Plugins)
	if err := w.Flush(); err != nil {
		return err
	}
	return printTroubles(to, s)
}

func tableVolumes(w io.Writer, before, volumes []admin.Volume, seconds float64) {
	fmt.Fprintln(w, "VOLUME\tSTATE\tSIZE\tPLUGIN\tVERSION\tGEN\tPATH\tCONNS\tREQUESTS\tERRORS\tIOPS\tMB/S")
	for _, v := range volumes {
		path, conns := "-", "-"
		if v.Path != nil {
			path, conns = dash(v.Path.Address), fmt.Sprint(v.Path.Connections)
		}
		old := admin.Op{}
		if i := slices.IndexFunc(before, func(b admin.Volume) bool { return b.Name == v.Name }); i >= 0 {
			old = before[i].Total()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", v.Name, v.State, sizeText(v.Size), v.Plugin,
			dash(v.Version), v.Generation, path, conns, load(old, v.Total(), seconds))
	}
}

func tableExports(w io.Writer, before, exports []admin.Export, seconds float64) {
	fmt.Fprintln(w, "EXPORT\tUP\tVOLUME\tFRONTEND\tLISTEN\tCLIENTS\tREQUESTS\tERRORS\tIOPS\tMB/S")
	for _, x := range exports {
		old := admin.Op{}
		if i := slices.IndexFunc(before, func(b admin.Export) bool { return b.Name == x.Name && b.Listen == x.Listen }); i >= 0 {
			old = before[i].Total()
		}
		fmt.Fprintf(w, "%q\t%s\t%s\t%s\t%s\t%d\t%s\n", x.Name, yes(x.Up), x.Volume, x.Frontend, x.Listen,
			x.Connections, load(old, x.Total(), seconds))
	}
}

// load writes requests, errors, and what came of them in the time between.
func load(before, now admin.Op, seconds float64) string {
	if seconds <= 0 || now.Requests < before.Requests || now.Bytes < before.Bytes {
		return fmt.Sprintf("%d\t%d\t-\t-", now.Requests, now.Errors)
	}
	return fmt.Sprintf("%d\t%d\t%.0f\t%.1f", now.Requests, now.Errors,
		float64(now.Requests-before.Requests)/seconds, float64(now.Bytes-before.Bytes)/seconds/1e6)
}

// tableProcesses has a line for each version of a plugin that runs in a process.
func tableProcesses(w io.Writer, plugins []admin.Plugin) {
	header := "\nPLUGIN\tPID\tSINCE\tRESTARTS\tCPU\tMEMORY\tPEAK\tSANDBOX\tPAYLOAD\n"
	for i := range plugins {
		p := &plugins[i]
		for _, v := range []struct {
			role    string
			version *admin.Loaded
		}{{"", &p.Loaded}, {" (canary)", p.Canary}, {" (next)", p.Next}, {" (previous)", p.Previous}} {
			if v.version != nil && v.version.Process != nil {
				io.WriteString(w, header)
				writeProcess(w, p.Name+v.role, v.version.Process)
				header = ""
			}
		}
	}
}

// writeProcess writes the line of a process.
func writeProcess(w io.Writer, name string, f *admin.Process) {
	pid := dash("")
	if f.PID != 0 {
		pid = fmt.Sprint(f.PID)
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%.1fs\t%.1fMiB\t%.1fMiB\t%s\t%s\n", name, pid, clock(f.Since), f.Restarts,
		f.CPU, float64(f.Memory)/float64(config.MiB), float64(f.Peak)/float64(config.MiB), f.Sandbox, payloadText(f.Payload))
}

// payloadText says how payload gets to a plugin's process.
func payloadText(p *admin.Payload) string {
	if p == nil {
		return "copied"
	}
	return fmt.Sprintf("%.1fMiB in place, %.1fMiB copied", float64(p.LentBytes)/float64(config.MiB), float64(p.CopiedBytes)/float64(config.MiB))
}

// sizeText leaves the size of a disk that has not been seen open.
func sizeText(n uint64) string {
	if n == 0 {
		return "-"
	}
	return config.FormatSize(n)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// printTroubles gives reasons for what is not as it should be.
func printTroubles(w io.Writer, s *admin.Status) error {
	var b strings.Builder
	for _, v := range s.Volumes {
		if v.State != "online" {
			fmt.Fprintf(&b, "volume %s is %s: %s\n", v.Name, v.State, dash(v.Reason))
		}
		if c := v.Session; c != nil && c.Reconnects+c.Traps+c.Violations+c.LostCaches > 0 {
			fmt.Fprintf(&b, "volume %s: %d reconnects, %d fences, %d replays, %d expired, %d traps, %d violations, %d lost caches; last error: %s\n",
				v.Name, c.Reconnects, c.Fences, c.Replays, c.Expired, c.Traps, c.Violations, c.LostCaches, dash(v.Path.LastError))
		}
		for _, errno := range sortedKeys(v.Errors) {
			fmt.Fprintf(&b, "volume %s: %d requests failed with %s\n", v.Name, v.Errors[errno], errno)
		}
	}
	for i := range s.Exports {
		troubleExport(&b, &s.Exports[i])
	}
	for i := range s.Plugins {
		troublePlugin(&b, &s.Plugins[i])
	}
	if b.Len() == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "\n%s", b.String())
	return err
}

// troubleExport says why an export is not up, and what is amiss with its device.
func troubleExport(b *strings.Builder, x *admin.Export) {
	if x.Reason != "" {
		fmt.Fprintf(b, "export %s is not up: %s\n", x.Name, x.Reason)
	}
	if d := x.Device; d != nil && d.State != "serving" {
		fmt.Fprintf(b, "export %s: %s is %s%s\n", x.Name, d.Path, d.State, when(d.Problem != "", ": "+d.Problem))
	}
}

// troublePlugin says what is not settled about a plugin.
func troublePlugin(b *strings.Builder, p *admin.Plugin) {
	line := func(format string, args ...any) {
		fmt.Fprintf(b, "plugin %s: %s\n", p.Name, fmt.Sprintf(format, args...))
	}
	switch {
	case p.Phase == "watch" && !p.WatchUntil.IsZero():
		line("the new version is watched until %s", clock(p.WatchUntil))
	case p.Phase != "":
		line("an upgrade is under way (%s)", p.Phase)
	}
	if c := p.Canary; c != nil {
		line("a canary, generation %d, runs on %s; the others run generation %d", c.Generation,
			dash(strings.Join(c.Volumes, ", ")), p.Generation)
	}
	if n := p.Next; n != nil {
		line("generation %d (%s, %s) is loaded, and no volume runs it yet", n.Generation, dash(n.Version), n.Runtime)
	}
	if p.Differs != "" {
		line("%s", p.Differs)
	}
	if f := p.Process; f != nil && f.LastEnd != "" {
		line("its process was replaced %d times, the last one ended so: %s", f.Restarts, f.LastEnd)
	}
	if u := p.Upgrades; u != nil && u.LastRollback != "" {
		line("the engine went back by itself: %s", u.LastRollback)
	}
}

func sortedKeys(m map[string]uint64) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
