package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"blockengine/engine/admin"
	"blockengine/engine/config"
	"blockengine/engine/pluginhost"
	"blockengine/engine/pluginhost/wasm"
)

func pluginCommand() *cobra.Command {
	return group("plugin", "Show plugins, and replace them while they are in use",
		pluginListCommand(), pluginInspectCommand(), pluginUpgradeCommand(), pluginRollbackCommand(),
		pluginRecordCommand(), pluginReplayCommand(), pluginNewCommand(), pluginTestCommand())
}

func pluginListCommand() *cobra.Command {
	var t target
	var asJSON, history bool
	cmd := &cobra.Command{Use: "list", Short: "List the plugins that a running engine has loaded", Args: noArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			plugins, err := client.Plugins(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), plugins)
			}
			w := newTable(cmd.OutOrStdout())
			tablePlugins(w, plugins)
			if history {
				fmt.Fprintln(w)
				tableHistory(w, plugins)
			}
			return w.Flush()
		})}
	t.flags(cmd)
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVar(&history, "history", false, "show all generations, and why they ended (JSON always does)")
	return cmd
}

func newTable(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 8, 2, ' ', 0) }

// tablePlugins has a line for what most volumes of a plugin run, one for what
// some have already, and one for what a rollback goes back to.
func tablePlugins(w io.Writer, plugins []admin.Plugin) {
	fmt.Fprintln(w, "PLUGIN\tKIND\tRUNTIME\tVERSION\tGEN\tHASH\tSINCE\tVOLUMES\tFILE")
	for i := range plugins {
		p := &plugins[i]
		rowPlugin(w, p, p.Name, &p.Loaded)
		if p.Canary != nil {
			rowPlugin(w, p, p.Name+" (canary)", p.Canary)
		}
		if p.Previous != nil {
			rowPlugin(w, p, p.Name+" (previous)", p.Previous)
		}
	}
}

func rowPlugin(w io.Writer, p *admin.Plugin, name string, l *admin.Loaded) {
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", name, p.Kind, l.Runtime, dash(l.Version), l.Generation,
		shortHash(l.Hash), runsSince(p, l.Generation), dash(strings.Join(l.Volumes, ",")), dash(l.Path))
}

// runsSince is from when a generation runs, by the history.
func runsSince(p *admin.Plugin, generation int) string {
	for _, g := range slices.Backward(p.History) {
		if g.Generation == generation && g.Until.IsZero() {
			return clock(g.Since)
		}
	}
	return "-"
}

// clock is a time for people, in theirs.
func clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

func tableHistory(w io.Writer, plugins []admin.Plugin) {
	fmt.Fprintln(w, "PLUGIN\tGEN\tVERSION\tHASH\tSINCE\tUNTIL\tENDED\tVOLUMES\tFILE")
	for _, p := range plugins {
		for _, g := range p.History {
			volumes := strings.Join(g.Volumes, ",")
			if volumes == "" {
				volumes = "all"
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, g.Generation, dash(g.Version), shortHash(g.Hash),
				clock(g.Since), clock(g.Until), dash(g.Ended), volumes, dash(g.Path))
		}
	}
}

// shortHash is enough of a hash to compare by eye.
func shortHash(h string) string { return h[:min(len(h), 12)] }

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func pluginInspectCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: "inspect FILE", Short: "Show a plugin file's manifest, hash, imports, and whether it would be loaded",
		Args: oneArg("FILE"), RunE: does(func(cmd *cobra.Command, args []string) error {
			runtime, err := pluginhost.RuntimeOf(args[0])
			if err != nil {
				return err
			}
			if runtime == config.RuntimeProcess {
				return inspectProgram(cmd, args[0], asJSON)
			}
			r, err := wasm.InspectFile(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), reportJSON(r))
			} else {
				err = printReport(cmd.OutOrStdout(), r)
			}
			if err == nil && r.Problem != "" {
				return fmt.Errorf("this file would be refused: %s", r.Problem)
			}
			return err
		})}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// reportJSON gives the manifest in the form that the plugin itself gives it.
func reportJSON(r *wasm.Report) any {
	out := struct {
		*wasm.Report
		Runtime  config.Runtime  `json:"runtime"`
		Manifest json.RawMessage `json:"manifest,omitempty"` // with the options' schema
	}{Report: r, Runtime: config.RuntimeWasm}
	if r.Manifest != nil {
		out.Manifest = r.Manifest.AppendJSON(nil)
	}
	return out
}

func printReport(to io.Writer, r *wasm.Report) error {
	w := newTable(to)
	fmt.Fprintf(w, "file\t%s\nsha256\t%s\nsize\t%d bytes\nruntime\twasm\n", r.Path, r.SHA256, r.Size)
	if m := r.Manifest; m != nil {
		fmt.Fprintf(w, "kind\tprotocol\nname\t%s\nversion\t%s\nplugin interface\t%s\npayload\t%s\n", m.Name, dash(m.Version), r.ABI, m.Payload)
	}
	fmt.Fprintf(w, "functions\t%d\nmemory\t%s, at most %s\n", r.Functions, config.FormatSize(r.MemoryMin), config.FormatSize(r.MemoryMax))
	for _, i := range r.Imports {
		fmt.Fprintf(w, "import\t%s.%s %s%s\n", i.Module, i.Name, i.Type, when(!i.Allowed, ", refused: "+i.Why))
	}
	for _, x := range r.Exports {
		fmt.Fprintf(w, "export\t%s %s %s\n", x.Kind, x.Name, x.Type)
	}
	if m := r.Manifest; m != nil {
		for _, o := range m.Options {
			fmt.Fprintf(w, "option\t%s (%s%s%s): %s\n", o.Name, o.Type, when(o.Required, ", required"), when(o.Secret, ", secret"), o.Help)
		}
	}
	return w.Flush()
}

func when(on bool, text string) string {
	if on {
		return text
	}
	return ""
}

// compileName is the command that compiles a stranger's module in a process of
// its own; it is not for people.
const compileName = "internal-compile"

func compileCommand() *cobra.Command {
	return &cobra.Command{Use: compileName, Hidden: true, DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if status := wasm.CompileMain(args, os.Stdin, cmd.ErrOrStderr()); status != 0 {
				return silent(status)
			}
			return nil
		}}
}
