package main

import (
	"fmt"
	"strings"
)

// columns of the table.
var columns = []string{"case", "server", "IOPS", "p50 µs", "p99 µs", "server CPU µs/request",
	"with the server behind", "IOPS ÷ best peer", "CPU ÷ best peer"}

// markdown writes the report for people.
func (rep *report) markdown() string {
	var b strings.Builder
	for _, line := range rep.Machine {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	fmt.Fprintf(&b, "- command: `%s`\n- %s\n", rep.Command, rep.Conditions)
	if len(rep.Rows) > 0 {
		b.WriteString("- client: fio's nbd engine, one thread, one connection, Unix socket; one server at a time\n")
		b.WriteString("\n")
		table(&b, columns)
	}
	for i := range rep.Rows {
		cells(&b, columns, rep.Rows[i].cells())
	}
	section(&b, "CPU per request of the nbd plugin in wasm ÷ the same builtin, round by round:", rep.Sandbox)
	section(&b, "At rest:", rep.Idle)
	upgradeMarkdown(&b, rep.Upgrades)
	return b.String()
}

func section(b *strings.Builder, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s\n\n", title)
	for _, line := range lines {
		fmt.Fprintf(b, "- %s\n", line)
	}
}

// cells of a row, one a column; those at the end may be missing.
func (w *row) cells() []string {
	name := w.Server
	if w.Ours {
		name = "**" + name + "**"
	}
	cells := []string{w.Case + ", " + w.Load, name}
	if w.Failed != "" {
		return append(cells, failedCell(w.Failed, w.Missing))
	}
	cells = append(cells, w.IOPS.text("%.0f"), w.P50.text("%.0f"), w.P99.text("%.0f"), w.CPU.text("%.2f"))
	behind := ""
	if servers[w.Server].backed {
		behind = w.TotalCPU.text("%.2f")
	}
	return append(cells, behind, ratio(w.IOPSRatio), ratio(w.CPURatio))
}

// failedCell says why there are no figures. A bar or line break would end the
// cell.
func failedCell(why string, missing bool) string {
	what := "failed: "
	if missing {
		what = "missing: "
	}
	return what + strings.ReplaceAll(strings.Join(strings.Fields(why), " "), "|", `\|`)
}

func table(b *strings.Builder, columns []string) {
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
}

// cells writes a row, which may have fewer of them than the table.
func cells(b *strings.Builder, columns, row []string) {
	for len(row) < len(columns) {
		row = append(row, "")
	}
	fmt.Fprintf(b, "| %s |\n", strings.Join(row, " | "))
}

// text writes "median (least–most)", or only the median where all are alike.
func (s spread) text(format string) string {
	middle, least, most := fmt.Sprintf(format, s.Median), fmt.Sprintf(format, s.Min), fmt.Sprintf(format, s.Max)
	if least == most {
		return middle
	}
	return fmt.Sprintf("%s (%s–%s)", middle, least, most)
}

func ratio(r float64) string {
	if r == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", r)
}
