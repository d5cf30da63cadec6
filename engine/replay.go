package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"blockengine/engine/kit"
	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/pluginhost/recording"
)

const replayLong = `Hand the events of a recording to a version of its plugin, and hold its actions
against those that were recorded: the FILE of a module, or of a program, which runs in a
process and a sandbox as the engine would run it; or builtin:NAME for what is linked into
this engine. Nothing is sent anywhere.

They are compared by meaning: what is sent, what becomes of each byte that is received,
the result of each request, limits, timers; how the actions are cut does not count. The
exit status is 0 if nothing differs, 1 if something does.`

func pluginReplayCommand() *cobra.Command {
	var p recording.Replay
	var o kit.Loading
	var options []string
	var memory, mode string
	var diff, asJSON bool
	cmd := &cobra.Command{Use: "replay FILE PLUGIN", Short: "Hand a recording to any version of its plugin, and compare",
		Long: replayLong, Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("%s takes two arguments, FILE and PLUGIN, and got %d", cmd.CommandPath(), len(args))
			}
			return nil
		}, RunE: does(func(cmd *cobra.Command, args []string) error {
			var err error
			if p.Options, err = pairs(options); err == nil {
				err = completeLoading(&o, memory, mode)
			}
			if err != nil {
				return &misuse{err}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			if p.Module, err = replayModule(ctx, args[1], o); err != nil {
				return err
			}
			defer p.Module.Close()
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			res, err := p.Run(ctx, bufio.NewReaderSize(f, 1<<20))
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return printReplay(cmd.OutOrStdout(), res, diff, asJSON)
		})}
	f := cmd.Flags()
	f.BoolVar(&p.Exact, "exact", false, "compare byte for byte and call by call, too")
	f.BoolVar(&diff, "diff", false, "print the events and the actions of the call in which the difference showed")
	f.StringArrayVar(&options, "option", nil, "give the volume's option `NAME=VALUE` instead of what was recorded; may be given several times")
	loadingFlags(cmd, &o, &memory, &mode)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// pairs reads NAME=VALUE.
func pairs(list []string) (map[string]string, error) {
	m := map[string]string{}
	for _, s := range list {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--option: %q is not NAME=VALUE", s)
		}
		m[name] = value
	}
	return m, nil
}

const linkedIn = "builtin:"

// replayModule loads what is to be handed a recording.
func replayModule(ctx context.Context, name string, o kit.Loading) (guest.Module, error) {
	linked, is := strings.CutPrefix(name, linkedIn)
	if !is {
		m, err := kit.Module(ctx, name, o)
		if wrong := (*kit.Misuse)(nil); errors.As(err, &wrong) {
			err = &misuse{wrong.Err}
		}
		return m, err
	}
	var have []string
	for _, p := range builtins().Protocols {
		n := p.Manifest().Name
		if n == linked {
			return guest.Linked(p), nil
		}
		have = append(have, linkedIn+n)
	}
	return nil, fmt.Errorf("no protocol plugin %q is linked into this engine; there is %s", linked, strings.Join(have, ", "))
}

// errDiffers is the end of a replay that found a difference, which was printed.
var errDiffers = errors.New("the versions differ")

func printReplay(w io.Writer, r *recording.Result, diff, asJSON bool) error {
	if asJSON {
		if err := printJSON(w, replayJSON(r)); err != nil {
			return err
		}
	} else if err := writeReplay(w, r, diff); err != nil {
		return err
	}
	switch {
	case r.Difference != nil:
		return errDiffers
	case r.Requests == 0 && len(r.Limits) > 0:
		return errors.New("nothing could be compared")
	case r.Cut != nil:
		return fmt.Errorf("the recording is not whole: %w", r.Cut)
	}
	return nil
}

func writeReplay(to io.Writer, r *recording.Result, diff bool) error {
	w := bufio.NewWriter(to)
	for _, l := range r.Limits {
		fmt.Fprintf(w, "%s: not compared any further: %v\n", where(&l), l.Err)
	}
	if d := r.Difference; d != nil {
		fmt.Fprintf(w, "%s: %v\n", where(d), d.Err)
		if diff {
			for _, part := range []struct {
				mark string
				list []string
			}{{"  ", d.Events}, {"- ", d.Old}, {"+ ", d.New}} {
				for _, line := range part.list {
					fmt.Fprintf(w, "%s%s\n", part.mark, line)
				}
			}
		}
	}
	fmt.Fprintf(w, "%d requests in %d calls on %d connections were compared with %s %s%s\n", r.Requests, r.Calls, r.Connections,
		r.Header.Name, dash(r.Header.Version), when(r.Difference == nil, ": no difference"))
	return w.Flush()
}

// where names the connection and the moment.
func where(f *recording.Found) string {
	return fmt.Sprintf("connection %d (number %d of its session), after %v", f.Conn, f.Number, time.Duration(f.NS).Round(time.Microsecond))
}

// replayFound is a finding for programs.
type replayFound struct {
	Connection uint32   `json:"connection"`
	Number     uint32   `json:"number"`
	Seconds    float64  `json:"seconds"`
	Text       string   `json:"text"`
	Events     []string `json:"events,omitempty"`
	Old        []string `json:"old,omitempty"`
	New        []string `json:"new,omitempty"`
}

func replayJSON(r *recording.Result) any {
	one := func(f *recording.Found) *replayFound {
		if f == nil {
			return nil
		}
		return &replayFound{f.Conn, f.Number, float64(f.NS) / 1e9, f.Err.Error(), f.Events, f.Old, f.New}
	}
	out := struct {
		Recording   recording.Header `json:"recording"`
		Connections int              `json:"connections"`
		Calls       uint64           `json:"calls"`
		Requests    uint64           `json:"requests"`
		Limits      []*replayFound   `json:"not_compared"`
		Difference  *replayFound     `json:"difference,omitempty"`
		Whole       bool             `json:"whole"`
	}{r.Header, r.Connections, r.Calls, r.Requests, []*replayFound{}, one(r.Difference), r.Cut == nil}
	for i := range r.Limits {
		out.Limits = append(out.Limits, one(&r.Limits[i]))
	}
	return out
}
