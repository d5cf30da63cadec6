package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"blockengine/engine/config"
	"blockengine/engine/kit"
	"blockengine/engine/pluginhost/sandbox"
)

// defaultFuzz is how long a plugin is tried with servers that lie, and maxFuzz
// how long at most.
const (
	defaultFuzz = 5 * time.Second
	maxFuzz     = 24 * time.Hour
)

const testLong = `Run the conformance suite over a plugin's file, in the runtime in which the engine
would run it: a WebAssembly module, or a program that is a plugin's process.

A protocol plugin needs a server to talk to. --server starts one; it has to listen
at unix:$SOCKET, or at --address. Without either only what needs no server is run.
Whatever is on the server's disk is overwritten.

  engine plugin test build/nbd.wasm -o export= --server 'exec nbdkit -f -U $SOCKET memory 64M'
  engine plugin test ./mystore -o size=64MiB

Afterwards the plugin is tried, for the time of --fuzz, with servers that lie and with
streams that are cut at random. What fails is printed with the place in sdk/PLUGIN.md
that says what is right. The exit status is 0 if nothing failed, 1 if something did, 2
if the command was used wrongly.`

func pluginTestCommand() *cobra.Command {
	var o kit.Options
	var asJSON, verbose bool
	var memory, mode string
	cmd := &cobra.Command{Use: "test FILE|DIR", Short: "Run the conformance suite over a plugin", Long: testLong, Args: oneArg("FILE or DIR"),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			if err := completeTest(&o, args[0], memory, mode); err != nil {
				return &misuse{err}
			}
			if verbose {
				o.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			}
			if !asJSON {
				o.Report = func(r kit.Result) { printResult(cmd.OutOrStdout(), r, verbose) }
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return runSuite(ctx, cmd.OutOrStdout(), o, asJSON)
		})}
	f := cmd.Flags()
	f.StringArrayVarP(&o.Values, "option", "o", nil, "an option of the volume, `NAME=VALUE`; may be given several times")
	f.StringVar(&o.Server, "server", "", "start this server, with sh -c; it listens at unix:$SOCKET or at --address")
	f.StringVar(&o.Address, "address", "", "where the server listens: `tcp:HOST:PORT` or unix:PATH")
	f.StringVar(&o.Other, "other", "", "hand connections over to and from this `FILE`, another version of the plugin")
	f.DurationVar(&o.Fuzz, "fuzz", defaultFuzz, "how long to try it with servers that lie; 0s: not at all")
	f.Uint64Var(&o.Seed, "seed", 1, "where fuzzing begins: the number that a failure named")
	loadingFlags(cmd, &o.Loading, &memory, &mode)
	f.BoolVarP(&verbose, "verbose", "v", false, "also print what passes, and what the plugin logs")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// completeTest checks the flags and finds the file.
func completeTest(o *kit.Options, path, memory, mode string) (err error) {
	if o.Path, err = kit.Find(path); err != nil {
		return err
	}
	if o.Fuzz < 0 || o.Fuzz > maxFuzz {
		return fmt.Errorf("--fuzz: %v is out of range: choose from 0s to %v", o.Fuzz, maxFuzz)
	}
	return completeLoading(&o.Loading, memory, mode)
}

// loadingFlags are those of commands that load a plugin's file by themselves.
func loadingFlags(cmd *cobra.Command, o *kit.Loading, memory, mode *string) {
	f := cmd.Flags()
	f.StringVar(memory, "memory", "", "what an instance or a process may have, as in the configuration (default as there)")
	f.StringVar(mode, "sandbox", string(sandbox.Strict), "of a process: strict or off")
	f.BoolVar(&o.Network, "network", false, "a process in a sandbox keeps the network")
}

// completeLoading checks what those flags say.
func completeLoading(o *kit.Loading, memory, mode string) (err error) {
	if memory != "" {
		if o.Memory, err = config.ParseSize(memory); err != nil {
			return fmt.Errorf("--memory: %w", err)
		}
	}
	o.Sandbox = sandbox.Mode(mode)
	if o.Sandbox != sandbox.Strict && o.Sandbox != sandbox.Off {
		return fmt.Errorf("--sandbox: %q: strict or off", mode)
	}
	o.Compile = []string{"/proc/self/exe", compileName}
	return nil
}

func runSuite(ctx context.Context, out io.Writer, o kit.Options, asJSON bool) error {
	sum, err := kit.Test(ctx, o)
	var wrong *kit.Misuse
	switch {
	case errors.As(err, &wrong):
		return &misuse{wrong.Err}
	case err != nil:
		return err
	case asJSON:
		err = printJSON(out, sum)
	default:
		_, err = fmt.Fprint(out, summaryText(sum))
	}
	if err == nil && sum.Failed > 0 {
		return silent(exitFailed)
	}
	return err
}

// printResult prints what failed, and with all the rest too.
func printResult(w io.Writer, r kit.Result, all bool) {
	switch {
	case r.Outcome == kit.Failed:
		fmt.Fprintf(w, "FAIL  %s\n", r.Name)
		for _, f := range r.Findings {
			fmt.Fprintf(w, "      %s\n      see sdk/PLUGIN.md, %s\n", strings.ReplaceAll(f.Text, "\n", "\n      "), f.Manual)
		}
	case r.Outcome == kit.Skipped && all:
		fmt.Fprintf(w, "skip  %s: %s\n", r.Name, r.Reason)
	case all:
		fmt.Fprintf(w, "ok    %s (%.2f s)\n", r.Name, r.Seconds)
	}
}

func summaryText(s *kit.Summary) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s, a %s plugin, as %s: %d passed, %d failed, %d skipped", s.Name, s.Version, s.Kind, s.Runtime,
		s.Passed, s.Failed, s.Skipped)
	if s.Rounds > 0 {
		fmt.Fprintf(&b, "; %d rounds of fuzzing (the next: --seed %d)", s.Rounds, s.NextSeed)
	}
	b.WriteByte('\n')
	if s.NoServer > 0 {
		fmt.Fprintf(&b, "%d of those that were skipped need a server: name one with --server or --address\n", s.NoServer)
	}
	return b.String()
}
