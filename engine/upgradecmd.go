package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"blockengine/engine/admin"
	"blockengine/engine/config"
	"blockengine/engine/pluginhost"
	"blockengine/engine/session"
)

// orderFlags are what the orders about plugins have in common.
type orderFlags struct {
	target
	volumes []string
	method  string
	drain   time.Duration
	save    bool
	asJSON  bool
}

func (f *orderFlags) flags(cmd *cobra.Command) {
	f.target.flags(cmd)
	cmd.Flags().StringArrayVar(&f.volumes, "volume", nil, "only this `volume`; may be given several times (default all of the plugin's)")
	cmd.Flags().StringVar(&f.method, "method", "", "how it takes over: handover, second-session or serial (default the first of these that fits)")
	cmd.Flags().DurationVar(&f.drain, "drain", pluginhost.DefaultDrain, "how long outstanding requests may take to finish before it is given up")
	cmd.Flags().BoolVar(&f.save, "save", false, "keep it over a restart, in the state directory")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print each event as a line of JSON")
}

// check refuses flags that make no sense.
func (f *orderFlags) check() error {
	if f.method != "" {
		if _, ok := session.ParseMethod(f.method); !ok {
			return &misuse{fmt.Errorf("--method: there is no method %q: %s", f.method, methodHelp)}
		}
	}
	return checkDuration("drain", f.drain, time.Millisecond, maxDrain)
}

func checkDuration(flag string, d, least, most time.Duration) error {
	if d < least || d > most {
		return &misuse{fmt.Errorf("--%s: %v is out of range: choose from %v to %v", flag, d, least, most)}
	}
	return nil
}

func pluginUpgradeCommand() *cobra.Command {
	var f orderFlags
	var watch, shadow time.Duration
	var r admin.UpgradeRequest
	cmd := &cobra.Command{Use: "upgrade NAME FILE", Short: "Go over to another version of a plugin while its volumes are in use",
		Long: "Go over to another version of a plugin while its volumes are in use. It is loaded and tried, takes over\n" +
			"volume by volume, and is then watched; if it is not as good as the one before, the engine goes back by itself.",
		Args: upgradeArgs(&r.Builtin), RunE: does(func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if cmd.Flags().Changed("watch") {
				if err := checkDuration("watch", watch, 0, config.MaxWatch); err != nil {
					return err
				}
				s := watch.Seconds()
				r.Watch = &s
			}
			if err := checkDuration("shadow", shadow, 0, maxShadow); err != nil {
				return err
			}
			r.Shadow = shadow.Seconds()
			if err := nameFile(&r, args[1:]); err != nil {
				return err
			}
			r.Volumes, r.Method, r.Drain, r.Save = f.volumes, f.method, f.drain.Seconds(), f.save
			return f.order(cmd, func(ctx context.Context, c *admin.Client, report func(admin.Event)) error {
				return c.Upgrade(ctx, args[0], r, report)
			})
		})}
	f.flags(cmd)
	cmd.Flags().DurationVar(&watch, "watch", 0, "how long it is watched afterwards; 0s: not at all (default as the configuration says)")
	cmd.Flags().DurationVar(&shadow, "shadow", 0, "first run it that long beside the version that runs, on the same events, and stop if it does anything else")
	cmd.Flags().StringVar(&r.SHA256, "sha256", "", "refuse any other file: `hash` as sha256sum prints it")
	cmd.Flags().BoolVar(&r.Builtin, "builtin", false, "go over to the plugin that is linked into the engine, instead of a FILE")
	return cmd
}

// upgradeArgs wants NAME and FILE, or NAME with --builtin.
func upgradeArgs(builtin *bool) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case *builtin && len(args) != 1:
			return fmt.Errorf("%s --builtin takes one argument, NAME, and got %d", cmd.CommandPath(), len(args))
		case !*builtin && len(args) != 2:
			return fmt.Errorf("%s takes two arguments, NAME and FILE (or NAME and --builtin), and got %d", cmd.CommandPath(), len(args))
		}
		return nil
	}
}

// nameFile puts the file into the request, if there is one, as the engine finds
// it: its working directory is another.
func nameFile(r *admin.UpgradeRequest, args []string) error {
	if r.SHA256 != "" && (r.Builtin || !isSHA256(r.SHA256)) {
		if r.Builtin {
			return &misuse{errors.New("--sha256 is for a FILE, not for --builtin")}
		}
		return &misuse{fmt.Errorf("--sha256: %q is no SHA-256 hash: write 64 hex digits, as sha256sum prints them", r.SHA256)}
	}
	if r.Builtin {
		return nil
	}
	if args[0] == "" {
		return &misuse{errors.New("FILE is empty")}
	}
	path, err := filepath.Abs(args[0])
	r.Path = path
	return err
}

func pluginRollbackCommand() *cobra.Command {
	var f orderFlags
	cmd := &cobra.Command{Use: "rollback NAME", Short: "Go back to the version of a plugin that ran before",
		Args: oneArg("NAME"), RunE: does(func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			r := admin.RollbackRequest{Volumes: f.volumes, Method: f.method, Drain: f.drain.Seconds(), Save: f.save}
			return f.order(cmd, func(ctx context.Context, c *admin.Client, report func(admin.Event)) error {
				return c.Rollback(ctx, args[0], r, report)
			})
		})}
	f.flags(cmd)
	return cmd
}

// order gives an order and prints how it goes. A signal leaves it to the engine.
func (f *orderFlags) order(cmd *cobra.Command, do func(context.Context, *admin.Client, func(admin.Event)) error) error {
	client, err := f.client()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	show := jsonEvents(cmd.OutOrStdout())
	if !f.asJSON {
		show = (&eventPrinter{w: cmd.OutOrStdout()}).print
	}
	err = do(ctx, client, show)
	if err != nil && ctx.Err() != nil {
		return errors.New("interrupted: what the engine has begun it goes on with by itself: look with engine plugin list --history")
	}
	return err
}

// jsonEvents prints each event as a line.
func jsonEvents(w io.Writer) func(admin.Event) {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return func(n admin.Event) { _ = e.Encode(n) } // who does not read has the exit status
}

// eventPrinter prints events for people, as they come.
type eventPrinter struct {
	w     io.Writer
	begun time.Time // by the first event
	pause float64   // seconds, the longest so far
}

func (p *eventPrinter) print(n admin.Event) {
	p.pause = max(p.pause, n.Pause)
	if p.begun.IsZero() {
		p.begun = n.Time
	}
	switch n.Phase {
	case admin.PhaseFailed: // the command ends with the reason
	case admin.PhaseDone:
		fmt.Fprintf(p.w, "%-9s %s: %s, after %.1f s%s\n", n.Phase, n.Plugin, dash(n.Text), n.Time.Sub(p.begun).Seconds(),
			when(p.pause > 0, fmt.Sprintf("; no request waited longer than %s for it", milliseconds(p.pause))))
	default:
		fmt.Fprintf(p.w, "%-9s %s\n", n.Phase, eventText(n))
	}
}

// begins is what is said of a phase that begins without a word of its own.
var begins = map[string]string{
	"load":     "the new version",
	"verify":   "check options, and try it beside the version that runs where that is possible",
	"shadow":   "beside the version that runs",
	"takeover": "volume by volume",
	"rollback": "to the version before",
	"save":     "for the next start",
}

// eventText puts what an event says beside its text in front of it.
func eventText(n admin.Event) string {
	text := n.Text
	if text == "" {
		text = begins[n.Phase]
	}
	if n.Method != "" {
		text = n.Method + ": " + text
	}
	if n.Volume != "" {
		text = n.Volume + ": " + text
	}
	if n.Pause > 0 {
		text += fmt.Sprintf(", a request waited %s at most", milliseconds(n.Pause))
	}
	if (n.Phase == "watch" || n.Phase == "shadow") && n.Volume == "" {
		text += "; Ctrl-C leaves it to the engine"
	}
	return text
}

func milliseconds(s float64) string { return fmt.Sprintf("%.1f ms", s*1e3) }
