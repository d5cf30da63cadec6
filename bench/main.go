// Command bench measures the engine next to its peers: the same client (fio's
// nbd engine) drives each server in the same run, one at a time, in turns, and
// one table shows what came out. See CONTRIBUTING.md for how to read it. Upgrades
// of a plugin under load, which no peer has, are measured with a client that
// knows the gaps between its completions (internal/nbdload).
//
// It runs the engine as a program and imports nothing of it.
//
// Read first: run.go (the order of a run), then servers.go (who is compared)
// and cases.go (under which load); upgrade.go for upgrades.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// settings are what the command line says.
type settings struct {
	engine, wasm string // programs to measure: the binary, and the nbd plugin's module
	store        string // and a null store's program
	disk         string // and a directory on a disk
	only         *regexp.Regexp
	rounds       int
	measure      time.Duration // of one load on one server, per round
	warmup       time.Duration
	idle         time.Duration // how long an idle engine is watched
	upgrades     int           // of each method and server
	compiles     int           // of new modules under load
	json         bool
}

func main() {
	s, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = bench(ctx, s)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// parse reads the command line.
func parse(args []string, out io.Writer) (*settings, error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(out)
	s := &settings{}
	var seconds float64
	quick := f.Bool("quick", false, "one short round: shows that all works, its figures mean little")
	only := f.String("run", "", "only the cases whose name matches this `regexp`, see the table's first column; \"idle\" and \"upgrade\" are some")
	f.StringVar(&s.engine, "engine", "build/engine", "the engine's `file`")
	f.StringVar(&s.wasm, "wasm", "build/plugins/nbd.wasm", "the nbd plugin's module, a `file`")
	f.StringVar(&s.store, "store", "build/nullstore", "a null store that runs as a process, a `file`")
	f.StringVar(&s.disk, "disk", "/var/tmp", "a `directory` on a disk, for disks that are files there")
	f.IntVar(&s.rounds, "rounds", 3, "how often each load is repeated")
	f.Float64Var(&seconds, "seconds", 3, "how long each load is measured")
	f.IntVar(&s.upgrades, "upgrades", 50, "how often the plugin is upgraded with each method, two seconds each")
	f.IntVar(&s.compiles, "compiles", 5, "how many new modules are compiled under load, a quarter of a minute each")
	f.BoolVar(&s.json, "json", false, "print JSON instead of a table")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unknown argument %q: there are only flags, see -help", f.Arg(0))
	}
	s.warmup, s.idle = 500*time.Millisecond, 5*time.Second
	if *quick {
		s.rounds, seconds = 1, 1
		s.warmup, s.idle = 200*time.Millisecond, time.Second
		s.upgrades, s.compiles = min(s.upgrades, 3), min(s.compiles, 1)
	}
	if s.rounds < 1 || s.rounds > 100 || !(seconds >= 1 && seconds <= 600) {
		return nil, fmt.Errorf("-rounds %d -seconds %g: use 1 to 100 rounds of 1 to 600 seconds", s.rounds, seconds)
	}
	if s.upgrades < 1 || s.upgrades > 300 || s.compiles < 1 || s.compiles > 20 {
		return nil, fmt.Errorf("-upgrades %d -compiles %d: use 1 to 300 upgrades and 1 to 20 compiles", s.upgrades, s.compiles)
	}
	s.measure = time.Duration(seconds * float64(time.Second))
	var err error
	if s.only, err = regexp.Compile(*only); err != nil {
		return nil, fmt.Errorf("-run: %w", err)
	}
	return s, nil
}

// bench runs everything and prints the report.
func bench(ctx context.Context, s *settings) error {
	for _, file := range []string{s.engine, s.wasm, s.store} {
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("%w: run make bench, which builds it", err)
		}
	}
	r, err := newRun(s)
	if err != nil {
		return err
	}
	defer r.close()
	report, err := r.all(ctx)
	if err != nil {
		return err
	}
	report.Machine = machine(ctx)
	report.Command = commandLine(os.Args)
	report.Conditions = fmt.Sprintf("%d rounds of %v each, in turns; median (least–most)", s.rounds, s.measure)
	if s.json {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(report)
	} else {
		_, err = io.WriteString(os.Stdout, report.markdown())
	}
	return errors.Join(err, report.failed())
}

// commandLine writes arguments as a shell reads them.
func commandLine(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		if a == "" || strings.ContainsAny(a, " \t\n*?[]()|&;<>$`\"'\\#~") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		quoted[i] = a
	}
	return strings.Join(quoted, " ")
}
