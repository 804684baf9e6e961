# Draws scaling.svg and scaling.png: cd to the folder of a scaling.csv of tools/scaling.sh, then run gnuplot with this
# file. A column of panels for each scaling; two rows, times and efficiencies, over ranks, and two over hosts, whose
# network makes other magnitudes of them.
table = "scaling.csv"
set datafile separator comma
set datafile columnheaders
set datafile missing NaN
# Those of gnuplot.cc where it has the like.
set border 3
set tics nomirror out
set style line 3 lc rgb "#1f5fa8" lw 2.5 pt 7 ps 0.8
set style line 4 lc rgb "#222222" lw 2 dt 2
set style line 6 lc rgb "#aaaaaa" lw 2
set style line 7 lc rgb "#e4e4e4" lw 1
# Of a baseline. Two after the other are one algorithm, with two allocators.
color(i) = word("#e69f00 #009e73 #d55e00 #cc79a7", (i + 1) / 2)
set grid ytics ls 7
set style fill transparent solid 0.13 noborder

baseline_of(wire) = substr(wire, 1, 4) eq "mpi_" ? wire : ""
# What a column has, sorted, where another one has that value.
values(name, where, is, sort) = system("awk -F, -v name=".name." -v where=".where." -v is=".is." \
    'NR == 1 { for (i = 1; i <= NF; ++i) at[$i] = i } NR > 1 && (is == \"\" || $at[where] == is) { print $at[name] }' ".\
    table." | sort -u ".sort)
scalings = values("scaling", "over", "", "")
overs = values("over", "over", "", "-r")
rate = word(values("rate", "over", "", "-r"), 1)
counts(over) = values(over, "over", over, "-n | paste -sd,")
baselines = ""
do for [wire in values("wire", "over", "", "")] { if (baseline_of(wire) ne "") { baselines = baselines." ".wire } }
crowded = words(baselines) > 0

# The value of a row that is of this panel, and whose wire is that baseline or ("") our own.
of(name, baseline) = strcol("scaling") eq scaling && strcol("over") eq over && \
                     baseline_of(strcol("wire")) eq baseline ? column(name) : NaN
ours(name) = of(name, "")
x_of(i) = of(over, word(baselines, i))
percent(name, baseline) = 100 * of(name, baseline)

amount(n) = n >= 1e6 ? sprintf("%g M", n * 1e-6) : n >= 1e3 ? sprintf("%g k", n * 1e-3) : sprintf("%g", n)
unit(letter) = letter eq "k" ? "k" : letter eq "m" ? "M" : "G"
speed(rate) = substr(rate, 1, strlen(rate) - 4)." ".unit(substr(rate, strlen(rate) - 3, strlen(rate) - 3))."bit/s"
do for [scaling in scalings] {
  do for [over in overs] {
    stats table using (ours("parameters")) name "parameters" nooutput
    stats table using (ours("ranks")) name "ranks" nooutput
    stats table using (ours("ranks") / ours("hosts")) name "ranks_per_host" nooutput
    size = scaling eq "weak" ? amount(parameters_min / ranks_min)." parameters per rank" : \
           amount(parameters_min)." parameters"
    hosts = over eq "ranks" ? "one host" : \
            sprintf("%g rank%s per host", ranks_per_host_min, ranks_per_host_min > 1 ? "s" : "")
    links = over eq "ranks" || rate eq "" ? "" : ", ".speed(rate)
    about = size.", ".hosts.links
    eval sprintf("%s_%s = \"%s\"", scaling, over, about)
    stats table using (ours(over)) name "over_".over nooutput
  }
}

# Places are in pixels of the SVG, from its top left corner.
width = 510 * words(scalings)
above = 80 + 20 * words(baselines)
height = above + 600 * words(overs)
place = "set lmargin at screen (510.0 * panel + 85) / width; \
    set rmargin at screen (510.0 * panel + 490) / width; \
    set tmargin at screen 1 - (top + 0.0) / height; \
    set bmargin at screen 1 - (top + 205.0) / height"

set logscale x 2
do for [kind in "svg png"] {
  if (kind eq "svg") {
    set terminal svg size width, height font "sans-serif,14" background rgb "white"
  } else {
    set terminal pngcairo size 1.5 * width, 1.5 * height font "sans,16" background rgb "white"
  }
  set output "scaling.".kind
  set multiplot
  # One for all panels.
  set key at screen 20.0 / width, screen 1 - 12.0 / height left top Left reverse samplen 2.5
  do for [i = 1:words(overs)] {
    over = word(overs, i)
    set xrange [value("over_".over."_min") / 1.2:value("over_".over."_max") * 1.2]
    eval "set xtics (".counts(over).")"
    if (over eq "ranks") { set yrange [0:*] } else { set yrange [*:*]; set logscale y }
    do for [panel = 0:words(scalings) - 1] {
      scaling = word(scalings, panel + 1)
      top = above + 600 * i - 540
      eval place
      set title sprintf("{/:Bold %s scaling over %s}\n%s", scaling eq "weak" ? "Weak" : "Strong", over, \
          value(scaling."_".over))
      unset xlabel
      set ylabel "step, ms"
      set format y "%g"
      if (over eq "ranks") { set offsets 0, 0, graph 0.12, 0 }
      plot table using (ours(over)):(ours("step_ms")):(ours("floor_ms")) with filledcurves lc rgb "#1f5fa8" notitle, \
           "" using (ours(over)):(ours("step_ms") * ours("efficiency")) with lines ls 6 title "ideal", \
           "" using (ours(over)):(ours("floor_ms")) with lines ls 4 title "floor: what memory and network allow", \
           for [i = 1:words(baselines)] "" using (x_of(i)):(of("step_ms", word(baselines, i))) \
               with linespoints lw 1.5 lc rgb color(i) pt i + 3 ps 1.2 title word(baselines, i) noenhanced, \
           "" using (ours(over)):(ours("step_ms")):(ours("step_ms_min")):(ours("step_ms_max")) \
               with yerrorbars ls 3 notitle, \
           "" using (ours(over)):(ours("step_ms")) with linespoints ls 3 \
               title "step: median, least and most".(crowded ? "" : ", and its ratio to the floor"), \
           "" using (ours(over)):(ours("step_ms_max")):(crowded ? "" : sprintf("%.2fx", ours("floor_ratio"))) \
               with labels offset 0, 0.8 font ",12" tc rgb "#1f5fa8" notitle
      unset key
      top = top + 250
      eval place
      unset title
      set xlabel over
      set ylabel "efficiency"
      set format y "%g%%"
      set offsets
      plot table using (ours(over)):(percent("efficiency", "")):(percent("floor_efficiency", "")) \
               with filledcurves lc rgb "#1f5fa8", \
           "" using (ours(over)):(100) with lines ls 6, \
           "" using (ours(over)):(percent("floor_efficiency", "")) with lines ls 4, \
           for [i = 1:words(baselines)] "" using (x_of(i)):(percent("efficiency", word(baselines, i))) \
               with linespoints lw 1.5 lc rgb color(i) pt i + 3 ps 1.2, \
           "" using (ours(over)):(percent("efficiency", "")) with linespoints ls 3
    }
  }
  unset logscale y
  unset multiplot
}
unset output
