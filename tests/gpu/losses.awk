# Compares the losses of two metrics.jsonl, step by step: awk -v bound=1e-4 -f losses.awk REFERENCE OTHER. Fails where the
# norm of the difference is more than `bound` of the reference's, or where nothing is there to compare.
function field(name,    at) {
    at = index($0, "\"" name "\": ")
    return at ? substr($0, at + length(name) + 4) + 0 : ""
}

{
    step = field("step")
    loss = field("loss")
    if (loss == "")
        next
    if (FILENAME == ARGV[1]) {
        reference[step] = loss
    } else if (step in reference) {
        printf "step %3d  %.6f  %.6f\n", step, reference[step], loss
        difference += (loss - reference[step]) ^ 2
        all += reference[step] ^ 2
        n++
    }
}

END {
    apart = all > 0 ? sqrt(difference / all) : 1
    printf "%d losses, %.2e apart, at most %.0e wanted\n", n, apart, bound
    exit !(n > 0 && apart <= bound)
}
