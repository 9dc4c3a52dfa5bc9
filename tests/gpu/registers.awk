# Reads what ptxas -v said (files *.cu.o.ptxas) and compares it with a list of budgets; see check_registers.sh.
# A kernel goes by the stem of its source and its own name, "nf4/dequantize": the rest of a mangled name is namespaces,
# whose names change from build to build, and types. Instantiations of one template share a budget.

# <length><identifier> pairs from the start of a mangled name; the last one in front of types or template arguments
function name_of(mangled,    s, n, word) {
    s = mangled
    sub(/^_Z/, "", s)
    sub(/^N/, "", s)
    while (match(s, /^[0-9]+/)) {
        n = substr(s, 1, RLENGTH) + 0
        word = substr(s, RLENGTH + 1, n)
        s = substr(s, RLENGTH + n + 1)
        if (mangled !~ /^_ZN/)
            break
    }
    rest = s # for the table: what tells instantiations apart
    return word == "" ? mangled : word
}

function number_before(word,    i) {
    for (i = 2; i <= NF; i++)
        if ($i ~ ("^" word))
            return $(i - 1) + 0
    return 0
}

# registers are given out to a warp in pieces of 8 a thread
function suggested(kernel) {
    return kernel " * " 8 * int((most[kernel] + 7) / 8)
}

function complain(sentence) {
    print sentence
    bad++
}

BEGIN {
    while (mode == "check" && (getline line < list) > 0) {
        sub(/#.*/, "", line)
        n = split(line, part, /[ \t]+/)
        if (n < 3 || part[1] == "")
            continue
        budget[part[1], part[2]] = part[3]
        stack_budget[part[1], part[2]] = part[4] + 0
        listed[part[1]] = listed[part[1]] " " part[2]
    }
    if (mode == "table")
        printf "%-20s %-28s %-7s %9s %6s %6s %7s  %s\n", "file", "kernel", "sm", "registers", "stack", "spills", "shared", "types"
}

/Compiling entry function/ {
    split($0, quoted, "'")
    source = FILENAME
    sub(/.*\//, "", source)
    sub(/\.cu\.o\.ptxas$/, "", source)
    name = name_of(quoted[2])
    kernel = source "/" name
    sm = quoted[4]
}

/bytes stack frame/ {
    stack = $1 + 0
    spilled = $5 + $9
}

/Used [0-9]+ registers/ {
    registers = number_before("registers")
    shared = 0
    for (i = 2; i <= NF; i++)
        if ($i ~ /^smem/)
            shared = $(i - 2) + 0
    kernels++
    if (mode == "table")
        printf "%-20s %-28s %-7s %9d %6d %6d %7d  %s\n", source, name, sm, registers, stack, spilled, shared, rest
    if (!(kernel in most)) {
        order[++n_kernels] = kernel
        most[kernel] = 0
    }
    if (registers > most[kernel])
        most[kernel] = registers
    if (mode != "check")
        next
    arch = ((kernel, sm) in budget) ? sm : "*"
    allowed = budget[kernel, arch]
    if (stack > stack_budget[kernel, arch] + 0 || (spilled && !stack))
        complain(kernel " (" sm "): " spilled " bytes of spills, " stack " of stack; give it fewer live values, smaller tiles or fewer threads a block")
    if (allowed == "")
        unknown[kernel] = 1
    else if (registers > allowed + 0)
        complain(kernel " (" sm "): " registers " registers, its budget is " allowed "; make it smaller, or raise the budget if occupancy bears it")
}

END {
    for (i = 1; i <= n_kernels && mode == "list"; i++)
        print suggested(order[i])
    if (mode != "check")
        exit 0
    for (i = 1; i <= n_kernels; i++)
        if (order[i] in unknown)
            complain(order[i] ": not in tests/gpu/registers.txt; add the line \"" suggested(order[i]) "\"")
    for (kernel in listed)
        if (!(kernel in most))
            complain(kernel ": in tests/gpu/registers.txt, but no such kernel was compiled; remove the line")
    if (!bad)
        printf "%d kernels of %d names: no spills, registers within their budgets\n", kernels, n_kernels
    exit bad != 0
}
